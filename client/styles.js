/** The element's looks: day and night, every state of the ring, three modes. All in one constructable sheet (CSP-safe). */

const NIGHT = `
  --ground: #17112b;
  --ground-a: #3a1d4d; --ground-b: #14304a; --ground-c: #4a2036;
  --card: #251c40; --card-line: #ffffff1c;
  --bubble: #322753; --bubble-mine: #5a2a63;
  --ink: #f8f2ff; --ink-soft: #c3b8db;
  --field: #2a2048; --field-line: #7d70a3;
  --dock: #2b2149f0;
  --tint: #3a2d62;
  --danger-ink: #ff9c8f;
  --shadow: 0 30px 80px -30px #000c;
`;

const SPECTRA = `
  .shell { --c1: #ffc9a8; --c2: #ffb3c7; --c3: #cdbbff; --glow: #ffb59a; }
  .shell[data-phase=connecting] { --c1: #ffd1b0; --c2: #b79cff; --c3: #ff9ec1; --glow: #b79cff; }
  .shell[data-phase=listening] { --c1: #37c8b0; --c2: #9be8d4; --c3: #58b7e8; --glow: #4fd3bd; }
  .shell[data-phase=hearing] { --c1: #2f9df4; --c2: #7ce0ff; --c3: #39d6a8; --glow: #46b4ff; }
  .shell[data-phase=thinking] { --c1: #7d5cff; --c2: #f4a3ff; --c3: #5cc8ff; --glow: #a07bff; }
  .shell[data-phase=speaking] { --c1: #ff7043; --c2: #ff4f94; --c3: #ffb547; --glow: #ff6f6a; }
  .shell[data-phase=paused] { --c1: #ffc83d; --c2: #ffe9a8; --c3: #ffa53d; --glow: #ffc95c; }
  .shell[data-phase=failed], .shell[data-phase=ended] { --c1: #c9c0d6; --c2: #e3dbe9; --c3: #b8aec9; --glow: #b8aec9; }
`;

const sheet = new CSSStyleSheet();
sheet.replaceSync(`
  :host {
    --accent-a: var(--visavis-accent, #d9432a);
    --accent-b: var(--visavis-accent-2, #b02a7c);
    --on-accent: var(--visavis-on-accent, #fff);
    --radius: var(--visavis-radius, 36px);
    --ground: #fff6ee;
    --ground-a: #ffdcc6; --ground-b: #d9ebff; --ground-c: #f2dcff;
    --card: #fffdfb; --card-line: #2b214014;
    --bubble: #ffffff; --bubble-mine: #ffe1d6;
    --ink: #2a1f3d; --ink-soft: #5d5172;
    --field: #ffffff; --field-line: #8d82a0;
    --dock: #fffdfbf0;
    --tint: #f4e9f6;
    --danger-ink: #b3261e;
    --shadow: 0 30px 80px -34px #5b2a5a80;
    display: block;
    box-sizing: border-box;
    container-type: inline-size;
    color-scheme: light;
    color: var(--visavis-text, var(--ink));
    font: 400 1rem/1.5 var(--visavis-font, ui-rounded, "SF Pro Rounded", "Segoe UI Variable Text", "Segoe UI", system-ui, Roboto, "Noto Sans", sans-serif);
    -webkit-font-smoothing: antialiased;
    -webkit-tap-highlight-color: transparent;
  }
  @media (prefers-color-scheme: dark) { :host(:not([theme=day])) { color-scheme: dark; ${NIGHT} } }
  :host([theme=night]) { color-scheme: dark; ${NIGHT} }
  :host([hidden]) { display: none; }
  *, ::before, ::after { box-sizing: border-box; }
  [hidden] { display: none !important; }
  p, ol, fieldset, legend { margin: 0; padding: 0; border: 0; }
  ol { list-style: none; }
  button, input, select { font: inherit; color: inherit; }
  button { cursor: pointer; border: 0; background: none; padding: 0; touch-action: manipulation; }
  svg { display: block; flex: none; width: 1.5em; height: 1.5em; }
  :focus-visible { outline: 3px solid var(--c1); outline-color: color-mix(in srgb, var(--ink) 75%, var(--accent-a)); outline-offset: 3px; }
  .aloud { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

  ${SPECTRA}

  /* ---- the house: column; two columns where there is room ---- */
  .shell {
    position: relative;
    display: flex; flex-direction: column; gap: 20px;
    padding: 18px;
    background: var(--visavis-surface,
      radial-gradient(60% 50% at 8% 4%, var(--ground-a), transparent 70%),
      radial-gradient(55% 55% at 96% 12%, var(--ground-b), transparent 70%),
      radial-gradient(70% 60% at 70% 104%, var(--ground-c), transparent 70%),
      var(--ground));
    overflow: hidden;
  }
  .scene { display: flex; flex-direction: column; align-items: center; gap: 18px; min-width: 0; }
  .side { position: relative; z-index: 1; display: flex; flex-direction: column; gap: 14px; min-width: 0; min-height: 0; }

  .brand { position: relative; z-index: 1; display: none; align-items: center; font-weight: 750; font-size: 1.15em; letter-spacing: -.02em; }
  .brand i { width: 15px; height: 15px; border-radius: 50%; background: var(--accent-a); }
  .brand i + i { margin-left: -5px; background: var(--accent-b); opacity: .85; }
  .brand span { margin-left: 9px; }

  /* ---- the stage ---- */
  .stage { position: relative; isolation: isolate; width: min(100%, var(--visavis-stage-size, 420px)); aspect-ratio: 1; --level: 0; }
  .frame {
    position: absolute; inset: 7px; overflow: hidden; border-radius: var(--radius);
    background: radial-gradient(80% 80% at 50% 38%, #d6dbe4, #aab6c4);
    box-shadow: inset 0 0 0 1px #ffffff30;
  }
  .poster, .video { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: cover; }
  .video { opacity: 0; transition: opacity .35s ease; }
  .shell[data-video] .video { opacity: 1; }
  .matte { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: cover; display: none; }
  .shell[data-matte] .matte { display: block; }
  .shell[data-matte] .frame { background: none; box-shadow: none; }
  .shell[data-matte] .video { opacity: 0; } /* not hidden: it must go on being decoded */
  .shell[data-matte] :is(.poster, .ring, .glow, .shimmer) { visibility: hidden; }
  :host([transparent]) .shell { background: none; }
  .poster { transition: filter .5s ease, transform .9s cubic-bezier(.2,.8,.2,1); }
  .shell[data-phase=failed] .poster { filter: saturate(.7); }
  .shell[data-phase=connecting] .poster { transform: scale(1.03); }

  .glow { position: absolute; inset: 0; border-radius: calc(var(--radius) + 8px); box-shadow: 0 0 70px 10px var(--glow), 0 26px 60px -20px var(--glow); background: color-mix(in srgb, var(--glow) 45%, transparent); opacity: .5; transition: opacity .4s; }
  .ring { position: absolute; inset: 0; overflow: hidden; border-radius: calc(var(--radius) + 7px); background: var(--c1); }
  .ring i { position: absolute; inset: -22%; background: conic-gradient(var(--c1), var(--c2), var(--c3), var(--c1)); }
  .shimmer { position: absolute; inset: 0 auto 0 0; width: 40%; display: none; pointer-events: none; background: linear-gradient(90deg, transparent, #ffffff38 50%, transparent); }

  /* In steps: without a GPU each frame of an animation costs as much as one of the video, and 60 a second a core. */
  .shell[data-phase=listening] .glow { animation: breathe 4.2s steps(24) infinite; }
  .shell[data-phase=hearing] .glow { opacity: calc(.55 + var(--level) * .45); transform: scale(calc(1 + var(--level) * .035)); transition: transform .12s steps(2), opacity .12s steps(2); }
  .shell[data-phase=speaking] .glow { opacity: calc(.6 + var(--level) * .4); transform: scale(calc(1.004 + var(--level) * .035)); transition: transform .12s steps(2), opacity .12s steps(2); }
  .shell[data-phase=speaking] .ring i { animation: turn 7s steps(56) infinite; }
  .shell[data-phase=thinking] .ring i { animation: turn 1.9s steps(26) infinite; }
  .shell[data-phase=thinking] .shimmer { display: block; animation: sweep 2.4s steps(30) infinite; }
  .shell[data-phase=connecting] .ring i { animation: turn 1.4s steps(20) infinite; }
  .shell[data-phase=paused] .glow { animation: breathe 1.4s steps(10) infinite; }
  @keyframes breathe { 0%, 100% { opacity: .38; transform: scale(.992); } 50% { opacity: .85; transform: scale(1.018); } }
  @keyframes turn { to { transform: rotate(1turn); } }
  @keyframes sweep { from { transform: translateX(-140%) skewX(-12deg); } to { transform: translateX(330%) skewX(-12deg); } }
  @keyframes blink { 50% { opacity: .25; } }
  @keyframes rise { from { opacity: 0; transform: translateY(8px); } }

  .status { position: absolute; left: 14px; top: 14px; display: flex; align-items: center; gap: 8px; padding: 6px 13px 6px 11px; border-radius: 99px; background: #1d1530d9; color: #fff; font-size: .875em; font-weight: 600; }
  .status:has(.word:empty) { display: none; }
  .dot { width: 9px; height: 9px; border-radius: 50%; background: var(--c1); }
  :is([data-phase=connecting], [data-phase=thinking], [data-phase=paused]) .dot { animation: blink 1.1s steps(5) infinite; }
  .settings-open { position: absolute; right: 12px; top: 12px; width: 2.5em; height: 2.5em; display: grid; place-items: center; border-radius: 50%; background: #1d1530b8; color: #fff; transition: background .2s; }
  .settings-open:hover { background: #1d1530; }
  .settings-open svg { width: 1.25em; height: 1.25em; }
  .sound { position: absolute; inset: 0; margin: auto; width: fit-content; height: fit-content; display: flex; gap: 10px; align-items: center; padding: 15px 24px; border-radius: 99px; background: #1d1530; color: #fff; font-weight: 700; box-shadow: 0 0 0 200vmax #1d153066; }

  /* ---- controls ---- */
  .dock { position: relative; z-index: 1; display: flex; gap: 4px; padding: 7px; border-radius: 30px; background: var(--dock); box-shadow: var(--shadow), 0 0 0 1px var(--card-line); animation: rise .4s backwards; }
  .dock svg { width: 1.85em; height: 1.85em; }
  .dock button { display: grid; justify-items: center; gap: 2px; min-width: 6.6em; padding: 9px 10px 8px; border-radius: 23px; font-size: .8125em; font-weight: 600; transition: background .2s, opacity .2s; }
  .dock button:hover:not(:disabled) { background: var(--tint); }
  .dock button:disabled { opacity: .42; cursor: default; }
  .dock .hangup { background: #c9302c; color: #fff; }
  .dock .hangup:hover:not(:disabled) { background: #a82320; }
  .slash { display: none; }
  .mute[aria-pressed=true] .slash, .mute[data-off] .slash { display: block; }
  .mute[aria-pressed=true] { background: var(--bubble-mine); }

  /* ---- the invitation ---- */
  .hero { display: flex; flex-direction: column; align-items: center; gap: 12px; text-align: center; }
  .title { font-size: clamp(1.75em, 8cqi, 2.25em); line-height: 1.08; font-weight: 800; letter-spacing: -.03em; text-wrap: balance; }
  .text, .told { max-width: 34em; color: var(--ink-soft); text-wrap: pretty; }
  .told { color: var(--ink); font-weight: 600; }
  .start {
    display: inline-flex; align-items: center; gap: 11px; margin-top: 4px; padding: 15px 30px 15px 25px; border-radius: 99px;
    color: var(--on-accent); font-size: 1.125em; font-weight: 700; letter-spacing: -.01em;
    background: linear-gradient(100deg, var(--accent-a), var(--accent-b));
    box-shadow: 0 14px 34px -12px var(--accent-a), inset 0 1px 0 #ffffff45;
    transition: transform .18s cubic-bezier(.3,1.6,.5,1), box-shadow .2s;
  }
  .start:hover { transform: translateY(-2px) scale(1.02); box-shadow: 0 20px 40px -12px var(--accent-a), inset 0 1px 0 #ffffff45; }
  .start:active { transform: scale(.98); }
  .shell:is([data-phase=failed], [data-phase=ended]) .start svg { display: none; }
  .shell:is([data-phase=failed], [data-phase=ended]) .start { padding-left: 30px; }

  .cast { display: flex; flex-wrap: wrap; gap: 8px; justify-content: center; }
  .cast label { position: relative; display: flex; align-items: center; gap: 9px; padding: 5px 15px 5px 5px; border-radius: 99px; background: var(--card); box-shadow: inset 0 0 0 1.5px var(--card-line); font-weight: 600; font-size: .9375em; cursor: pointer; transition: box-shadow .2s, background .2s; }
  .cast label:hover { background: var(--tint); }
  .cast label:has(:checked) { box-shadow: inset 0 0 0 2.5px var(--accent-b); }
  .cast label:has(:focus-visible) { outline: 3px solid color-mix(in srgb, var(--ink) 75%, var(--accent-a)); outline-offset: 2px; }
  .cast input { position: absolute; opacity: 0; inset: 0; margin: 0; cursor: pointer; }
  .cast img, .cast b { width: 2.5em; height: 2.5em; border-radius: 50%; object-fit: cover; background: #c3ccd8; display: grid; place-items: center; color: #2a1f3d; }

  /* ---- the conversation ---- */
  .notice { display: flex; align-items: center; gap: 10px; padding: 11px 14px; border-radius: 18px; background: var(--card); box-shadow: inset 0 0 0 1.5px #e0a32d; font-size: .9375em; line-height: 1.4; animation: rise .3s backwards; }
  .notice span { flex: 1; }
  .notice button { flex: none; }
  .use-microphone { padding: 7px 13px; border-radius: 99px; background: var(--ink); color: var(--ground); font-weight: 650; font-size: .875em; }
  .dismiss { width: 32px; height: 32px; display: grid; place-items: center; border-radius: 50%; }
  .dismiss svg { width: 1.15em; height: 1.15em; }
  .dismiss:hover { background: var(--tint); }

  .talk { flex: 1; min-height: 0; overflow-y: auto; overscroll-behavior: contain; display: flex; flex-direction: column; padding: 6px 4px; border-radius: 18px; scrollbar-width: thin; scrollbar-color: var(--field-line) transparent; }
  .talk > :first-child { margin-top: auto; }
  .talk ol { display: flex; flex-direction: column; gap: 9px; }
  .line { max-width: 86%; width: fit-content; padding: 10px 16px; border-radius: 22px; background: var(--bubble); box-shadow: 0 1px 2px #2b214014, inset 0 0 0 1px var(--card-line); overflow-wrap: anywhere; animation: rise .28s cubic-bezier(.2,.9,.3,1.2) backwards; }
  .line[data-role=assistant] { align-self: flex-start; border-bottom-left-radius: 7px; }
  .line[data-role=user] { align-self: flex-end; border-bottom-right-radius: 7px; background: var(--bubble-mine); }
  .line small { display: block; margin-top: 3px; color: var(--ink-soft); font-size: .8125em; }
  .line:not([data-final]) .said::after { content: ""; display: inline-block; width: .5em; height: .5em; margin-left: .35em; border-radius: 50%; background: currentColor; animation: blink 1s steps(5) infinite; }
  .ideas { display: flex; flex-wrap: wrap; gap: 8px; padding-top: 10px; align-items: center; }
  .ideas p { width: 100%; color: var(--ink-soft); font-size: .875em; }
  .ideas button { padding: 8px 15px; border-radius: 99px; background: var(--card); box-shadow: inset 0 0 0 1.5px var(--card-line); font-size: .9375em; font-weight: 550; transition: background .2s; }
  .ideas button:hover { background: var(--tint); }

  .composer { display: flex; gap: 8px; padding: 5px; border-radius: 99px; background: var(--field); box-shadow: inset 0 0 0 1.5px var(--field-line); }
  .composer:focus-within { box-shadow: inset 0 0 0 2.5px var(--accent-b); }
  .input { flex: 1; min-width: 0; border: 0; outline: none; background: none; padding: 8px 6px 8px 17px; }
  .input::placeholder { color: var(--ink-soft); opacity: 1; }
  .send { width: 2.6em; height: 2.6em; display: grid; place-items: center; border-radius: 50%; color: var(--on-accent); background: linear-gradient(120deg, var(--accent-a), var(--accent-b)); transition: opacity .2s, filter .2s; }
  .send:disabled { filter: grayscale(1); opacity: .45; cursor: default; }

  /* ---- settings ---- */
  .settings { width: min(400px, calc(100vw - 28px)); padding: 20px; border: 0; border-radius: 28px; background: var(--card); color: inherit; box-shadow: 0 40px 100px -20px #000a, 0 0 0 1px var(--card-line); }
  .settings::backdrop { background: #1b123066; }
  .settings form { display: grid; gap: 16px; }
  .settings-head { display: flex; justify-content: space-between; align-items: center; font-size: 1.2em; letter-spacing: -.015em; }
  .settings .close { width: 38px; height: 38px; display: grid; place-items: center; border-radius: 50%; background: var(--tint); }
  .settings .close svg { width: .95em; height: .95em; }
  .settings legend, .settings label { font-weight: 600; }
  .settings .cast { justify-content: flex-start; margin-top: 8px; }
  .settings select { display: block; width: 100%; margin-top: 6px; padding: 11px 13px; border: 1.5px solid var(--field-line); border-radius: 15px; background: var(--field); font-weight: 400; }
  .switch { display: flex; justify-content: space-between; align-items: center; cursor: pointer; }
  .switch span { display: flex; gap: 9px; align-items: center; }
  .switch input { appearance: none; width: 50px; height: 30px; margin: 0; border-radius: 99px; background: var(--field-line); position: relative; cursor: pointer; transition: background .2s; }
  .switch input::after { content: ""; position: absolute; top: 4px; left: 4px; width: 22px; height: 22px; border-radius: 50%; background: #fff; transition: transform .2s; }
  .switch input:checked { background: var(--accent-b); }
  .switch input:checked::after { transform: translateX(20px); }

  /* ---- modes ---- */
  :host([mode=card]) { max-width: 440px; border-radius: 34px; box-shadow: var(--shadow), 0 0 0 1px var(--card-line); }
  :host([mode=card]) .shell { border-radius: 34px; }
  :host([mode=card]) .talk { max-height: 240px; }
  :host([mode=card]) .title { font-size: 1.75em; }

  :host(:not([mode=card])) .shell { min-height: 100dvh; }
  :host(:not([mode=card])) .stage { width: min(100%, var(--visavis-stage-size, 42dvh)); min-width: min(100%, 220px); }
  :host(:not([mode=card])) .side { flex: 1; width: min(100%, 640px); align-self: center; }
  :host(:not([mode=card])) .shell:not([data-live]) .side { justify-content: center; gap: 24px; }
  :host(:not([mode=card])) .shell[data-live] { height: 100dvh; }
  :host(:not([mode=card])) .shell[data-live] .stage { width: min(100%, var(--visavis-stage-size, 38dvh)); }
  :host(:not([mode=card])) .shell[data-phase=ended] .stage { width: min(100%, var(--visavis-stage-size, 30dvh)); }
  :host(:not([mode=card])) .shell:not([data-live]) .talk:not([hidden]) { flex: 0 1 auto; max-height: 30dvh; }
  :host([mode=kiosk]) { font-size: clamp(1.25rem, 2.4vmin, 2rem); }
  :host([mode=kiosk]) .settings-open { display: none; }
  :host([mode=kiosk]) .shell .stage, :host([mode=kiosk]) .shell[data-live] .stage { width: min(100%, var(--visavis-stage-size, 50dvh)); }
  :host([mode=kiosk]) .side { width: min(100%, 34em); }
  :host([mode=kiosk]) .start { font-size: 1.35em; padding: .9em 1.9em .9em 1.6em; }

  @media (min-aspect-ratio: 1/1) {
    @container (min-width: 820px) {
      :host(:not([mode=card])) .shell {
        display: grid; grid-template: auto minmax(0, 1fr) / minmax(0, 1.15fr) minmax(340px, 1fr);
        column-gap: clamp(32px, 5cqi, 88px); row-gap: 8px; height: 100dvh;
        padding: 26px max(32px, calc((100cqi - 1280px) / 2)) 34px;
      }
      :host(:not([mode=card])) .brand { display: flex; grid-column: 1 / -1; }
      :host(:not([mode=card])) .scene { justify-content: center; }
      :host(:not([mode=card])) .dock[hidden] { display: flex !important; visibility: hidden; } /* the face does not jump */
      :host(:not([mode=card])) .shell:is([data-phase]) .stage { width: min(100%, var(--visavis-stage-size, 600px), 100dvh - 220px); }
      :host(:not([mode=card])) .side { width: auto; align-self: stretch; padding-block: 4px; }
      :host(:not([mode=card])) .hero { align-items: flex-start; text-align: left; gap: 18px; min-height: fit-content; }
      :host(:not([mode=card])) .title { font-size: clamp(2.5em, 4.8cqi, 4em); }
      :host(:not([mode=card])) .text { font-size: 1.125em; }
      :host(:not([mode=card])) .start { font-size: 1.25em; padding: 19px 38px 19px 31px; }
      :host(:not([mode=card])) .cast { justify-content: flex-start; }
      :host(:not([mode=card])) .talk { mask-image: linear-gradient(transparent, #000 28px); }
      :host(:not([mode=card])) .line { font-size: 1.0625em; }
    }
  }
  @container (max-width: 430px) {
    .status { left: 10px; top: 10px; padding: 4px 11px 4px 9px; font-size: .8125em; }
    .settings-open { right: 9px; top: 9px; }
    .shell { padding: 14px; gap: 14px; }
    .dock button { min-width: 5.8em; }
    :host { --radius: var(--visavis-radius, 28px); }
  }
  @media (prefers-reduced-motion: reduce) {
    *, ::before, ::after { animation: none !important; transition: none !important; }
    .shell .stage .glow { transform: none; opacity: .65; }
  }
  @media (forced-colors: active) {
    .composer, .line, .dock, .cast label, .notice { border: 1px solid; }
    .ring { forced-color-adjust: none; }
  }
`);

export { sheet };
