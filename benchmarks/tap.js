/** Measuring ears and eyes beside the page: when sound begins and ends, and when each picture is shown. */
const WORKLET = `
class Tap extends AudioWorkletProcessor {
  constructor({ processorOptions: { threshold, quiet } }) {
    super();
    Object.assign(this, { threshold, quiet: quiet * sampleRate, silent: Infinity, last: 0, on: false });
  }
  process([[samples]]) {
    if (!samples) return true;
    for (let k = 0; k < samples.length; k++) {
      if (Math.abs(samples[k]) > this.threshold) {
        this.last = currentTime + k / sampleRate;
        if (!this.on) this.port.postMessage({ on: this.last });
        this.on = true;
        this.silent = 0;
      } else if (this.on && ++this.silent >= this.quiet) {
        this.on = false;
        this.port.postMessage({ off: this.last });
      }
    }
    return true;
  }
}
registerProcessor("tap", Tap);`;

const bench = (window.bench = { mic: [], voice: [], frames: [], clock: [], wrong: [] });
addEventListener("error", (e) => bench.wrong.push(e.message));
const head = () => document.querySelector("talking-head");
let context = null;

/** Seconds of the audio clock at which each sound begins (`on`) and ended (`off`) are noted in `events`. */
async function tap(stream, threshold, quiet, events) {
  if (!context) {
    context = new AudioContext({ sampleRate: 48000, latencyHint: "interactive" });
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([WORKLET], { type: "text/javascript" })));
    setInterval(() => bench.clock.push(performance.now() - context.currentTime * 1000), 100);
  }
  const node = new AudioWorkletNode(context, "tap", { processorOptions: { threshold, quiet } });
  const mute = new GainNode(context, { gain: 0 });
  context.createMediaStreamSource(stream).connect(node).connect(mute).connect(context.destination);
  node.port.onmessage = ({ data }) => events.push(data);
}

const until = async (test, what, seconds = 15) => {
  for (const end = performance.now() + seconds * 1000; performance.now() < end; ) {
    const found = test();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`${what} did not come within ${seconds} s; the page says ${head().state}`);
};

/** Place the call and listen on both sides. Thresholds are amplitudes. */
bench.call = async ({ micThreshold, micQuiet, voiceThreshold, voiceQuiet, frames }) => {
  const element = head();
  element.setAttribute("audio-processing", "off");
  await element.start();
  const sender = await until(
    () => element.peerConnection?.getSenders().find((s) => s.track?.kind === "audio"), "the microphone");
  await tap(new MediaStream([sender.track]), micThreshold, micQuiet, bench.mic);
  await until(() => element.remoteStream.getAudioTracks().length, "the voice");
  await tap(new MediaStream(element.remoteStream.getAudioTracks()), voiceThreshold, voiceQuiet, bench.voice);
  await until(() => element.timings.firstFrame, "the face");
  if (frames) watch(element.videoElement, frames);
  await until(() => element.state === "listening", "the call");
  return { ...element.timings };
};

bench.hangUp = async () => {
  head().stop();
  await until(() => head().state === "ended", "the end");
};

/** Note each shown frame; `columns`/`rows` of the picture are read back when the test card is shown. */
function watch(video, { strips }) {
  const canvas = new OffscreenCanvas(16, 16);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const seen = (now, meta) => {
    const frame = { shown: meta.expectedDisplayTime, presented: meta.presentedFrames };
    if (strips) {
      const width = meta.width;
      canvas.width = width;
      canvas.height = strips.length;
      strips.forEach((y, row) => pen.drawImage(video, 0, y * meta.height, width, 1, 0, row, width, 1));
      const data = pen.getImageData(0, 0, width, strips.length).data;
      frame.rows = strips.map((_, row) => {
        const levels = [];
        for (let x = 0; x < width; x += 4) levels.push(data[(row * width + x) * 4]);
        return levels;
      });
    }
    bench.frames.push(frame);
    video.requestVideoFrameCallback(seen);
  };
  video.requestVideoFrameCallback(seen);
}
