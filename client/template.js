/** The element's shadow tree: structure only; view.js fills it, styles.js dresses it. */

const icon = (paths) =>
  `<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">${paths}</svg>`;

const MIC = icon('<rect x="9" y="3" width="6" height="11" rx="3"/><path d="M5 11a7 7 0 0 0 14 0M12 18v3"/><path class="slash" d="M4 4l16 16"/>');
const STOP = icon('<rect x="5.5" y="5.5" width="13" height="13" rx="3.5" fill="currentColor" stroke="none"/>');
const HANG_UP = icon(
  '<path d="M3.5 15.2c-.9-1-1-2.6-.2-3.6C5.3 9.2 8.5 8 12 8s6.7 1.2 8.7 3.6c.8 1 .7 2.6-.2 3.6l-.8.8c-.4.4-1 .5-1.5.2l-2.5-1.4a1.2 1.2 0 0 1-.6-1.2l.2-1.6a10 10 0 0 0-6.6 0l.2 1.6c.1.5-.2 1-.6 1.2l-2.5 1.4c-.5.3-1.1.2-1.5-.2z" fill="currentColor" stroke="none"/>',
);
const GEAR = icon('<path d="M4 7h9M17 7h3M4 17h3M11 17h9"/><circle cx="15" cy="7" r="2.2"/><circle cx="9" cy="17" r="2.2"/>');
const SEND = icon('<path d="M5 12h13M12.5 5.5 19 12l-6.5 6.5"/>');
const CROSS = icon('<path d="M6 6l12 12M18 6 6 18"/>');
const SOUND = icon('<path d="M4 9.5v5h3.5L12 18.5v-13L7.5 9.5z"/><path d="M15.5 9a4.2 4.2 0 0 1 0 6M18 6.5a7.8 7.8 0 0 1 0 11"/>');
const BUBBLE = icon('<path d="M5 5h14a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2h-7l-5 4v-4H5a2 2 0 0 1-2-2V7a2 2 0 0 1 2-2z"/>');

const template = document.createElement("template");
template.innerHTML = `
<div class="shell" part="shell">
  <div class="brand" part="brand" aria-hidden="true"><i></i><i></i><span>visavis</span></div>

  <div class="scene">
    <div class="stage" part="stage">
      <div class="glow" part="glow"></div>
      <div class="ring" part="ring"><i></i></div>
      <div class="frame" part="frame">
        <img class="poster" part="poster" alt="" hidden>
        <video class="video" part="video" playsinline disablepictureinpicture></video>
        <canvas class="matte" part="matte" aria-hidden="true"></canvas>
        <div class="shimmer"></div>
        <p class="status" part="status"><i class="dot"></i><span class="word"></span></p>
        <button class="settings-open" part="settings-button" type="button" aria-label="Settings" title="Settings">${GEAR}</button>
        <button class="sound" part="sound" type="button" hidden>${SOUND}<span></span></button>
      </div>
    </div>
    <div class="dock" part="controls" role="group" aria-label="Call" tabindex="-1" hidden>
      <button class="mute" part="mute" type="button">${MIC}<span>Mute</span></button>
      <button class="interrupt" part="interrupt" type="button" aria-keyshortcuts="Escape" title="Escape does it too">${STOP}<span>Interrupt</span></button>
      <button class="hangup" part="hangup" type="button">${HANG_UP}<span>Hang up</span></button>
    </div>
  </div>

  <div class="side">
    <div class="hero" part="welcome">
      <p class="title" part="title" role="heading" aria-level="1"></p>
      <p class="told" hidden></p>
      <p class="text"></p>
      <button class="start" part="start" type="button">${MIC}<span></span></button>
      <div class="cast" part="cast" role="radiogroup" aria-label="Who do you want to talk to?" hidden></div>
    </div>
    <div class="notice" part="notice" role="status" hidden>
      <span></span>
      <button class="use-microphone" type="button" hidden>Use microphone</button>
      <button class="dismiss" type="button" aria-label="Dismiss" hidden>${CROSS}</button>
    </div>
    <div class="talk" part="conversation" role="region" aria-label="Conversation" tabindex="0" hidden>
      <ol></ol>
      <div class="ideas" part="ideas" hidden><p>For a start</p></div>
    </div>
    <form class="composer" part="composer" autocomplete="off">
      <input class="input" part="input" type="text" maxlength="2000" enterkeyhint="send" aria-label="Write a message">
      <button class="send" part="send" type="submit" aria-label="Send" disabled>${SEND}</button>
    </form>
  </div>

  <dialog class="settings" part="settings" aria-label="Settings">
    <form method="dialog">
      <div class="settings-head"><strong>Settings</strong><button class="close" value="close" aria-label="Close">${CROSS}</button></div>
      <fieldset class="faces"><legend>Face</legend><div class="cast" role="radiogroup" aria-label="Face"></div></fieldset>
      <label class="persona-row">Persona <select class="persona"></select></label>
      <label class="device-row">Microphone <select class="device"></select></label>
      <label class="switch"><span>${BUBBLE} Captions</span><input class="captions" type="checkbox" role="switch"></label>
    </form>
  </dialog>

  <p class="aloud announcer" aria-live="polite"></p>
  <p class="aloud alarm" role="alert"></p>
</div>`;

export const build = () => template.content.cloneNode(true);
