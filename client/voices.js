/** The voices of our own page: choose who speaks in the call, make a voice from a recording, delete it (docs/voices.md). */

const SHORTEST_S = 3;
const LONGEST_S = 30;
const TICK_MS = 100;
/** Uploading is quick; after it the server examines the recording and writes down what is said. */
const ANSWER_MS = 120_000;
const READING = {
  en: "The harbour was quiet this morning. A small boat came in with the tide, and everybody on board was waving.",
  zh: "今天早上海港很安静。一条小船随着潮水开了进来，船上的人都在挥手。",
};
const MICROPHONE = {
  NotAllowedError: "The microphone is blocked: allow it with the icon beside the address bar, or choose a file.",
  NotFoundError: "No microphone was found. Plug one in, or choose a file.",
  NotReadableError: "Another program has your microphone. Close that program, or choose a file.",
};

/** A recording of 3 to 30 s, as it comes from the microphone: nothing is taken away from the voice or added to it. */
class Recorder {
  #stream = null;
  #context = null;
  #meter = null;
  #recorder = null;
  #chunks = [];
  #began = 0;

  get running() {
    return this.#recorder?.state === "recording";
  }

  get seconds() {
    return this.running ? (performance.now() - this.#began) / 1000 : 0;
  }

  /** Loudness from 0 to 1 of the last moment. */
  get level() {
    const samples = new Float32Array(this.#meter.fftSize);
    this.#meter.getFloatTimeDomainData(samples);
    const power = samples.reduce((sum, x) => sum + x * x, 0) / samples.length;
    return Math.min(1, Math.max(0, 1 + (10 * Math.log10(power + 1e-9)) / 55));
  }

  async start() {
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    this.#context = new AudioContext();
    this.#meter = new AnalyserNode(this.#context, { fftSize: 2048 });
    this.#context.createMediaStreamSource(this.#stream).connect(this.#meter);
    this.#chunks = [];
    this.#recorder = new MediaRecorder(this.#stream, { audioBitsPerSecond: 128_000 });
    this.#recorder.ondataavailable = (event) => this.#chunks.push(event.data);
    this.#recorder.start();
    this.#began = performance.now();
  }

  /** The recording as a Blob. */
  async stop() {
    const recorder = this.#recorder;
    if (recorder?.state === "recording") {
      const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve, { once: true }));
      recorder.stop();
      await stopped;
    }
    this.close();
    return new Blob(this.#chunks, { type: recorder?.mimeType });
  }

  close() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#context?.close();
    this.#stream = this.#context = null;
  }
}

class Voices {
  #tag = document.querySelector("talking-head");
  #dialog = document.querySelector("dialog.voices");
  #open = document.querySelector(".voices-open");
  #recorder = new Recorder();
  #sound = null;
  #playing = null;
  #timer = null;
  #muted = false;
  #busy = false;
  #asked = 0;

  constructor() {
    this.#open.addEventListener("click", () => this.#show());
    this.#find("close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => this.#closed());
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
    this.#find("record").addEventListener("click", () => this.#press());
    this.#find("play").addEventListener("click", () => this.#listen());
    this.#file.addEventListener("change", () => this.#chosen());
    this.#find("new").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#make();
    });
    this.#find("new").addEventListener("input", () => this.#ready());
    const language = navigator.language.startsWith("zh") ? "zh" : "en";
    this.#find("transcript").value = READING[language];
  }

  #find(name) {
    return this.#dialog.querySelector(`.voices-${name}`);
  }

  get #file() {
    return this.#find("file").querySelector("input");
  }

  get #consent() {
    return this.#find("consent").querySelector("input");
  }

  #headers() {
    const token = this.#tag.getAttribute("token");
    return token ? { Authorization: `Bearer ${token}` } : {};
  }

  #url(name = "") {
    return new URL(`v1/audio/voices${name && `/${encodeURIComponent(name)}`}`, this.#tag.src);
  }

  async #show() {
    this.#say("");
    this.#complain("");
    this.#dialog.showModal();
    await this.#load();
  }

  async #closed() {
    this.#playing?.stop();
    if (this.#recorder.running) await this.#stopRecording();
    this.#open.focus();
  }

  // ---- the list ------------------------------------------------------------------------------------------------

  async #load() {
    const asked = ++this.#asked;
    let told;
    try {
      const response = await fetch(this.#url(), { headers: this.#headers() });
      told = await response.json();
      if (!response.ok) throw new Error(told.error?.message);
    } catch (error) {
      this.#complain(error instanceof SyntaxError || error instanceof TypeError ? UNREACHABLE : error.message);
      return;
    }
    if (asked !== this.#asked) return;
    this.#list(told.data);
    this.#find("new").hidden = !told.can_clone;
    const why = this.#find("why");
    why.hidden = told.can_clone;
    why.textContent = `A new voice cannot be made here. ${told.why_not}`;
    this.#find("consent").querySelector("span").textContent = told.consent;
    const heard = told.understood.length > 0;
    this.#find("transcript").required = !heard;
    this.#find("said").firstChild.textContent = heard ? "What you say (empty: the server writes it down) " : "What you say ";
    this.#ready();
  }

  #list(voices) {
    const rows = [{ name: "", cloned: false }, ...voices].map((voice) => this.#row(voice));
    this.#find("list").replaceChildren(...rows);
    if (!rows.some((row) => row.querySelector("input").checked)) {
      rows[0].querySelector("input").checked = true;
      this.#tag.removeAttribute("voice"); // it was deleted meanwhile
    }
  }

  #row({ name, cloned, language, seconds, transcript }) {
    const row = document.createElement("div");
    const label = row.appendChild(document.createElement("label"));
    const input = label.appendChild(document.createElement("input"));
    input.type = "radio";
    input.name = "voice";
    input.value = name;
    input.checked = name === (this.#tag.getAttribute("voice") ?? "");
    input.addEventListener("change", () => this.#choose(name));
    const words = label.appendChild(document.createElement("span"));
    words.textContent = name || "The persona's own";
    if (cloned) {
      const about = words.appendChild(document.createElement("small"));
      about.textContent = `${language}, ${Math.round(seconds)} s: ${shortened(transcript)}`;
      const button = row.appendChild(document.createElement("button"));
      button.type = "button";
      button.className = "voices-delete";
      button.textContent = "Delete";
      button.setAttribute("aria-label", `Delete ${name}`);
      button.addEventListener("click", () => this.#delete(name, button));
      button.addEventListener("blur", () => this.#ask(button, name, false));
    }
    return row;
  }

  /** From the next sentence of the call on, or from the next call on. */
  #choose(name) {
    this.#tag.voice = name;
  }

  #ask(button, name, sure) {
    button.toggleAttribute("data-sure", sure);
    button.textContent = sure ? "Really?" : "Delete";
    button.setAttribute("aria-label", sure ? `Really delete ${name}?` : `Delete ${name}`);
  }

  async #delete(name, button) {
    if (!button.hasAttribute("data-sure")) {
      this.#ask(button, name, true);
      return;
    }
    this.#complain("");
    button.disabled = true;
    try {
      const response = await fetch(this.#url(name), { method: "DELETE", headers: this.#headers() });
      if (!response.ok && response.status !== 404) throw new Error((await response.json()).error?.message);
      if (this.#tag.voice === name) this.#tag.voice = "";
      this.#say(`${name} is deleted, here and in the voice server's memory.`);
    } catch (error) {
      this.#complain(error instanceof SyntaxError || error instanceof TypeError ? UNREACHABLE : error.message);
    }
    await this.#load();
    this.#find("list").querySelector(":checked")?.focus();
  }

  // ---- the recording -------------------------------------------------------------------------------------------

  async #press() {
    const button = this.#find("record");
    this.#complain("");
    if (this.#recorder.running) {
      await this.#stopRecording();
      return;
    }
    button.disabled = true;
    try {
      this.#muted = this.#tag.muted;
      this.#tag.mute(true); // a face that listens would answer
      await this.#recorder.start();
    } catch (error) {
      this.#recorder.close();
      this.#tag.mute(this.#muted);
      this.#complain(MICROPHONE[error.name] ?? `The microphone cannot be used: ${error.message}`);
      button.disabled = false;
      return;
    }
    this.#playing?.stop();
    this.#take(null);
    this.#file.value = "";
    button.setAttribute("aria-pressed", "true");
    button.querySelector("span").textContent = "Stop";
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  #tick() {
    const seconds = this.#recorder.seconds;
    this.#find("time").textContent = `${seconds.toFixed(1)} s`;
    this.#find("bar").firstElementChild.style.transform = `scaleX(${this.#recorder.level.toFixed(2)})`;
    this.#find("record").disabled = seconds < SHORTEST_S; // less cannot be cloned
    if (seconds >= LONGEST_S - 0.5) this.#stopRecording();
  }

  async #stopRecording() {
    clearInterval(this.#timer);
    const button = this.#find("record");
    button.disabled = true;
    const sound = await this.#recorder.stop();
    this.#tag.mute(this.#muted);
    button.disabled = false;
    button.setAttribute("aria-pressed", "false");
    button.querySelector("span").textContent = "Record again";
    this.#find("bar").firstElementChild.style.transform = "scaleX(0)";
    this.#take(sound);
  }

  #chosen() {
    const [file] = this.#file.files;
    this.#complain("");
    if (!file) return;
    this.#find("time").textContent = `${(file.size / 2 ** 20).toFixed(1)} MiB`;
    this.#take(file);
  }

  #take(sound) {
    this.#sound = sound;
    this.#find("play").hidden = sound === null;
    this.#ready();
  }

  /** Decoded here: a media element would need the content policy's leave. */
  async #listen() {
    this.#playing?.stop();
    const context = new AudioContext();
    try {
      const source = new AudioBufferSourceNode(context, {
        buffer: await context.decodeAudioData(await this.#sound.arrayBuffer()),
      });
      source.connect(context.destination);
      source.onended = () => context.close();
      source.start();
      this.#playing = source;
    } catch {
      context.close();
      this.#complain("This browser cannot play it; the server may still be able to read it.");
    }
  }

  // ---- making a voice ------------------------------------------------------------------------------------------

  #ready() {
    this.#find("save").disabled = this.#busy || this.#sound === null || !this.#consent.checked || this.#recorder.running;
  }

  async #make() {
    const name = this.#find("name").value.trim();
    const form = new FormData();
    form.append("name", name);
    form.append("transcript", this.#find("transcript").value);
    form.append("consent", String(this.#consent.checked));
    form.append("consent_text", this.#find("consent").textContent.trim());
    form.append("audio_sample", this.#sound, "recording");
    this.#say("");
    this.#complain("");
    this.#busy = true;
    this.#ready();
    const progress = this.#find("progress");
    let made = null;
    progress.hidden = false;
    progress.value = 0;
    try {
      const told = await post(this.#url(), this.#headers(), form, (share) => {
        if (share < 1) progress.value = share;
        else progress.removeAttribute("value"); // it is there; now it is examined
      });
      this.#say(`${told.name} is ready: ${told.seconds.toFixed(0)} seconds are kept.`, told.advice);
      this.#find("new").reset();
      this.#find("transcript").value = told.transcript;
      this.#find("time").textContent = "0.0 s";
      this.#find("record").querySelector("span").textContent = "Record";
      this.#take(null);
      made = told.name;
    } catch (error) {
      this.#complain(error.message);
    }
    progress.hidden = true;
    this.#busy = false;
    await this.#load();
    if (made === null) return;
    [...this.#find("list").querySelectorAll("input")].find((input) => input.value === made)?.focus();
    this.#find("told").scrollIntoView({ block: "nearest" });
  }

  #say(sentence, advice = []) {
    const told = this.#find("told");
    told.replaceChildren();
    if (!sentence) return;
    told.appendChild(document.createElement("strong")).textContent = sentence;
    if (advice.length) {
      const list = told.appendChild(document.createElement("ul"));
      for (const one of advice) list.appendChild(document.createElement("li")).textContent = one;
    }
  }

  #complain(sentence) {
    const wrong = this.#find("wrong");
    wrong.hidden = !sentence;
    wrong.textContent = sentence;
    if (sentence) wrong.scrollIntoView({ block: "nearest" });
  }
}

const UNREACHABLE = "The server does not answer. Check that it is running, then try again.";

/** As fetch, which cannot tell how far an upload has come. `far(share)`: 0 to 1. Rejects with a sentence. */
function post(url, headers, form, far) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.timeout = ANSWER_MS;
    request.upload.onprogress = (event) => event.lengthComputable && far(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 201) resolve(request.response);
      else reject(new Error(request.response?.error?.message ?? `The server failed (${request.status}).`));
    };
    request.onerror = request.ontimeout = () => reject(new Error(UNREACHABLE));
    request.send(form);
  });
}

function shortened(text) {
  return text.length > 60 ? `${text.slice(0, 58).trimEnd()}…` : text;
}

if (document.querySelector("dialog.voices")) new Voices();
