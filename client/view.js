/** Shows a state of the store in the shadow tree, and turns what the person does there into wishes. */
import { isCall, isLive } from "./store.js";
import { sheet } from "./styles.js";
import { build } from "./template.js";
import {
  CONNECTING,
  IDEAS,
  MICROPHONE,
  STATUS,
  explainClosing,
  explainEnd,
  explainFailure,
  explainNotice,
} from "./words.js";

/** Nearer to the end than this (pixels), the conversation follows what is said. */
const FOLLOW_PX = 60;

export class View {
  #root;
  #at;
  #wish;
  #lines = new Map();
  #castKey = "";
  #personaKey = "";
  #follow = true;
  #announced = new Set();

  /** `wish`: `{start, retryMicrophone, mute, interrupt, hangUp, send, choose, device, captions, hear, dismiss}`. */
  constructor(host, wish) {
    this.#root = host.attachShadow({ mode: "open", delegatesFocus: false });
    this.#root.adoptedStyleSheets = [sheet];
    this.#root.append(build());
    this.#wish = wish;
    this.#at = (selector) => this.#root.querySelector(selector);
    this.#listen();
  }

  get matte() {
    return this.#at(".matte");
  }

  /** Whether the canvas shows the face, in place of the video. */
  set matted(on) {
    this.#at(".shell").toggleAttribute("data-matte", on);
  }

  get video() {
    return this.#at(".video");
  }

  /** Loudness of whoever talks, 0 to 1; the ring moves with it. */
  set level(value) {
    this.#at(".stage").style.setProperty("--level", value.toFixed(2));
  }

  #listen() {
    const on = (selector, type, action) => this.#at(selector).addEventListener(type, action);
    on(".start", "click", () => this.#wish.start());
    on(".mute", "click", () => this.#wish.mute());
    on(".interrupt", "click", () => this.#wish.interrupt());
    on(".hangup", "click", () => this.#wish.hangUp());
    on(".sound", "click", () => this.#wish.hear());
    on(".dismiss", "click", () => this.#wish.dismiss());
    on(".use-microphone", "click", () => this.#wish.useMicrophone());
    on(".settings-open", "click", async () => {
      this.#at(".settings").showModal();
      this.#showDevices(await this.#wish.devices());
    });
    on(".settings", "click", (event) => {
      if (event.target === event.currentTarget) event.currentTarget.close(); // a click beside it
    });
    on(".persona", "change", (event) => this.#wish.choose({ persona: event.target.value }));
    on(".device", "change", (event) => this.#wish.device(event.target.value));
    on(".captions", "change", (event) => this.#wish.captions(event.target.checked));
    for (const cast of this.#root.querySelectorAll(".cast")) {
      cast.addEventListener("change", (event) => this.#wish.choose({ avatar: event.target.value }));
    }
    on(".input", "input", (event) => {
      this.#at(".send").disabled = !event.target.value.trim();
    });
    on(".composer", "submit", (event) => {
      event.preventDefault();
      const text = this.#at(".input").value.trim();
      if (!text) return;
      this.#at(".input").value = "";
      this.#at(".send").disabled = true;
      this.#follow = true;
      this.#wish.send(text);
    });
    on(".talk", "scroll", ({ currentTarget: talk }) => {
      this.#follow = talk.scrollHeight - talk.scrollTop - talk.clientHeight < FOLLOW_PX;
    });
    const ideas = this.#at(".ideas");
    for (const idea of IDEAS) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: idea });
      button.addEventListener("click", () => this.#wish.send(idea));
      ideas.append(button);
    }
  }

  /** `look`: `{captions, mode, poster(avatar)}`: what attributes say. */
  render(state, previous, look) {
    const avatar = state.avatars.find((a) => a.name === state.avatar);
    const name = avatar?.title || state.avatar || "the face";
    this.#renderShell(state, look, name);
    this.#renderPoster(avatar, look);
    this.#renderHero(state, name);
    this.#renderDock(state);
    this.#renderNotice(state);
    this.#renderLines(state, look, name);
    this.#renderSettings(state, look);
    if (state.phase !== previous.phase) this.#announcePhase(state, name);
  }

  #renderShell(state, look, name) {
    const shell = this.#at(".shell");
    shell.dataset.phase = state.phase;
    shell.toggleAttribute("data-live", isCall(state.phase));
    shell.toggleAttribute("data-video", state.videoShown);
    this.#at(".word").textContent = statusWord(state);
    this.video.setAttribute("aria-label", `${name}, live`);
    const sound = this.#at(".sound");
    sound.hidden = !state.soundBlocked;
    sound.lastElementChild.textContent = `Tap to hear ${name}`;
    this.#at(".input").placeholder = isCall(state.phase) ? `Write to ${name}…` : "Or write instead…";
    this.#at(".title").setAttribute("aria-level", look.mode === "card" ? "2" : "1");
  }

  #renderPoster(avatar, look) {
    const poster = this.#at(".poster");
    const url = look.poster(avatar);
    if (url && poster.getAttribute("src") !== url) poster.src = url;
    poster.hidden = !url;
    poster.alt = avatar ? `Portrait of ${avatar.title}` : "";
  }

  #renderHero(state, name) {
    const hero = this.#at(".hero");
    hero.hidden = isCall(state.phase);
    const [title, told, text, button] = heroWords(state, name);
    const put = (selector, words) => {
      const node = this.#at(selector);
      node.textContent = words;
      node.hidden = !words;
    };
    put(".hero .title", title);
    put(".hero .told", told);
    put(".hero .text", text);
    this.#at(".start").lastElementChild.textContent = button;
    this.#at(".hero .cast").hidden = state.phase !== "idle" || state.avatars.length < 2;
  }

  #renderDock(state) {
    this.#at(".dock").hidden = !isCall(state.phase);
    const mute = this.#at(".mute");
    const usable = state.microphone === "on" || state.microphone === "silent" || state.microphone === "busy";
    mute.toggleAttribute("data-off", !usable);
    mute.disabled = !isLive(state.phase);
    if (usable) mute.setAttribute("aria-pressed", String(state.muted));
    else mute.removeAttribute("aria-pressed");
    mute.lastElementChild.textContent = !usable ? "Use mic" : "Mute";
    mute.title = !usable ? "Use the microphone" : state.muted ? "Unmute the microphone" : "Mute the microphone";
    this.#at(".interrupt").disabled = !["speaking", "thinking", "paused"].includes(state.phase);
  }

  #renderNotice(state) {
    const notice = this.#at(".notice");
    const live = isLive(state.phase);
    const silenced = live && MICROPHONE[state.microphone];
    const [words, kind] =
      state.phase === "connecting"
        ? [connectingWords(state), "connecting"]
        : live && state.closing
          ? [explainClosing(state.closing), "closing"]
          : live && state.notice
            ? [explainNotice(state.notice), "notice"]
            : silenced
              ? [silenced, "microphone"]
              : ["", ""];
    notice.hidden = !words;
    const span = notice.firstElementChild;
    if (span.textContent !== words) span.textContent = words; // a live region: told once
    this.#at(".use-microphone").hidden = kind !== "microphone" || state.microphone === "insecure" || state.microphone === "silent";
    this.#at(".dismiss").hidden = kind !== "notice" || state.notice?.code === "shaky";
  }

  #renderLines(state, look, name) {
    const talk = this.#at(".talk");
    const list = talk.firstElementChild;
    const shown = new Set(state.captions.map((c) => `${c.role}:${c.id}`));
    for (const [key, line] of this.#lines) {
      if (shown.has(key)) continue;
      line.node.remove();
      this.#lines.delete(key);
    }
    if (!state.captions.length) this.#announced.clear();
    for (const caption of state.captions) this.#renderLine(list, caption, name);
    const ideas = this.#at(".ideas");
    ideas.hidden = !isLive(state.phase) || state.captions.some((c) => c.role === "user");
    talk.hidden = !look.captions || (!isLive(state.phase) && !state.captions.length);
    if (this.#follow) talk.scrollTop = talk.scrollHeight;
  }

  #renderLine(list, caption, name) {
    const key = `${caption.role}:${caption.id}`;
    let line = this.#lines.get(key);
    if (!line) {
      const node = document.createElement("li");
      node.className = "line";
      node.dataset.role = caption.role;
      node.part.add("bubble", `bubble-${caption.role}`);
      const who = Object.assign(document.createElement("span"), { className: "aloud" });
      const said = Object.assign(document.createElement("span"), { className: "said" });
      const note = document.createElement("small");
      node.append(who, said, note);
      list.append(node);
      line = { node, who, said, note, caption: null };
      this.#lines.set(key, line);
    }
    if (line.caption === caption) return;
    line.caption = caption;
    line.who.textContent = caption.role === "user" ? "You: " : `${name}: `;
    line.said.textContent = caption.text;
    line.note.textContent = caption.note;
    line.note.hidden = !caption.note;
    line.node.toggleAttribute("data-final", caption.final);
    if (caption.final && !this.#announced.has(key)) {
      this.#announced.add(key); // whole lines only: a screen reader is told once, not at each word
      this.#at(".announcer").textContent = `${line.who.textContent}${caption.text}`;
    }
  }

  #renderSettings(state, look) {
    const castKey = JSON.stringify([state.avatars, look.poster(null)]);
    if (castKey !== this.#castKey) {
      this.#castKey = castKey;
      for (const [index, cast] of [...this.#root.querySelectorAll(".cast")].entries()) {
        cast.replaceChildren(...state.avatars.map((a) => face(a, `face-${index}`, look.poster(a))));
      }
    }
    for (const radio of this.#root.querySelectorAll(".cast input")) radio.checked = radio.value === state.avatar;
    this.#at(".faces").hidden = state.avatars.length < 2;

    const select = this.#at(".persona");
    const personaKey = JSON.stringify(state.personas);
    if (personaKey !== this.#personaKey) {
      this.#personaKey = personaKey;
      select.replaceChildren(...state.personas.map((p) => new Option([p.title || p.name, p.about].filter(Boolean).join(", "), p.name)));
    }
    select.value = state.persona;
    const faces = new Set(state.personas.map((p) => p.avatar).filter(Boolean));
    this.#at(".persona-row").hidden = faces.size === state.personas.length; // each has its face: that is the choice
    this.#at(".captions").checked = look.captions;
  }

  #showDevices({ devices, chosen }) {
    const select = this.#at(".device");
    select.replaceChildren(new Option("The system's choice", ""), ...devices.map((d) => new Option(d.label, d.id)));
    select.value = chosen;
    this.#at(".device-row").hidden = devices.length === 0;
  }

  /** A screen reader hears of what matters and does not hear each turn of the conversation. */
  #announcePhase(state, name) {
    const alarm = this.#at(".alarm");
    if (state.phase === "failed") {
      const { title, told, advice } = explainFailure(state.failure);
      alarm.textContent = [title, told, advice].filter(Boolean).join(". ");
    } else if (!isLive(state.phase)) alarm.textContent = "";
    if (state.phase === "ended") this.#at(".announcer").textContent = explainEnd(state.ended).title;
    if (state.phase === "listening" && !state.captions.length) this.#at(".announcer").textContent = `${name} is listening.`;
  }

  /** Where the keyboard goes on, after the one that was pressed has gone. */
  focusNext(phase) {
    const active = this.#root.activeElement;
    if (active && active.checkVisibility?.() !== false) return;
    this.#at(isCall(phase) ? ".dock" : ".start").focus({ preventScroll: true });
  }

  get hasFocus() {
    return this.#root.activeElement !== null;
  }

  get settingsOpen() {
    return this.#at(".settings").open;
  }
}

/** Only a face with an open microphone is said to listen. */
function statusWord({ phase, microphone, muted }) {
  if (phase !== "listening") return STATUS[phase];
  if (["denied", "absent", "insecure", "lost", "off"].includes(microphone)) return STATUS.reading;
  return muted ? STATUS.muted : STATUS.listening;
}

function heroWords(state, name) {
  if (state.phase === "failed") {
    const { title, told, advice } = explainFailure(state.failure);
    return [title, told, advice, "Try again"];
  }
  if (state.phase === "ended") {
    const { title, length } = explainEnd(state.ended);
    return [title, "", length, "Talk again"];
  }
  return [
    name === "the face" ? "Hello there." : `Hi, I'm ${name}.`,
    "",
    "Press the button, allow the microphone and just talk. I listen, I answer aloud, and you may interrupt me at any time.",
    "Start talking",
  ];
}

function connectingWords(state) {
  if (state.reconnecting) return CONNECTING.again;
  return state.microphone === "asking" ? CONNECTING.asking : "";
}

function face(avatar, group, poster) {
  const label = document.createElement("label");
  const radio = Object.assign(document.createElement("input"), { type: "radio", name: group, value: avatar.name });
  const picture = poster
    ? Object.assign(document.createElement("img"), { src: poster, alt: "" })
    : Object.assign(document.createElement("b"), { textContent: avatar.title.slice(0, 1), ariaHidden: "true" });
  label.append(radio, picture, avatar.title);
  return label;
}
