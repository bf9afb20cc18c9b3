/** What the element tells the page around it: typed events that bubble and cross shadow roots. */

class VisavisEvent extends CustomEvent {
  constructor(type, detail) {
    super(type, { bubbles: true, composed: true, detail: Object.freeze(detail) });
  }
}

/** `detail`: `{state, previous}`, each a phase of store.js. */
export class StateEvent extends VisavisEvent {
  constructor(state, previous) {
    super("visavis-state", { state, previous });
  }
}

/** `detail`: `{role, id, text, final, note}`; `text` is the whole line so far, as heard. */
export class CaptionEvent extends VisavisEvent {
  constructor({ role, id, text, final, note }) {
    super("visavis-caption", { role, id, text, final, note });
  }
}

/** `detail`: `{code, message, fatal}`; fatal: the call is over or never came about. */
export class ErrorEvent extends VisavisEvent {
  constructor(code, message, fatal) {
    super("visavis-error", { code, message, fatal });
  }
}

/** `detail`: `{reason, seconds}`: why the call ended and how long it was. */
export class EndedEvent extends VisavisEvent {
  constructor(reason, seconds) {
    super("visavis-ended", { reason, seconds });
  }
}

/** `detail`: `{avatar, persona, muted, microphone, captions}`, after one of them changed. */
export class SettingsEvent extends VisavisEvent {
  constructor(detail) {
    super("visavis-settings", { ...detail });
  }
}

/** `detail`: `{name, at}`: a step of setting the call up, in milliseconds of performance.now(). */
export class TimingEvent extends VisavisEvent {
  constructor(name, at) {
    super("visavis-timing", { name, at });
  }
}

/** `detail`: what the server measured of one reply, as `visavis.marks` carries it. */
export class MarksEvent extends VisavisEvent {
  constructor(marks) {
    super("visavis-marks", { ...marks });
  }
}
