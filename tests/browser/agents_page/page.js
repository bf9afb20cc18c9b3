/**
 * An unmodified @openai/agents-realtime client with nothing around it but what a test asks: connect, say, hear, see.
 * `agents.connect({url, key, instructions})`; the address defaults to this page's own server. With `weather`, the agent
 * has a function of that name, which gives that text.
 */

import { OpenAIRealtimeWebRTC, RealtimeAgent, RealtimeSession, tool } from "@openai/agents-realtime";

const face = document.getElementById("face");

const agents = {
  /** types of the server's events, in order */
  events: [],
  errors: [],
  /** what the function was called with */
  calls: [],
  /** the SDK's own history: {id, role, status, text} */
  history: [],
  connectMs: 0,
  session: null,

  async connect({ url = "/v1/realtime/calls", key = "ek_test", instructions = "Be brief.", weather = "" } = {}) {
    // Browser processing off: what the microphone plays is what the server shall hear.
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const mediaStream = await navigator.mediaDevices.getUserMedia({ audio });
    const transport = new OpenAIRealtimeWebRTC({
      baseUrl: new URL(url, location.href).href,
      mediaStream,
      audioElement: face,
      changePeerConnection: (pc) => {
        pc.addTransceiver("video", { direction: "recvonly" });
        return pc;
      },
    });
    const tools = weather ? [weatherTool(weather)] : [];
    const session = new RealtimeSession(new RealtimeAgent({ name: "guest", instructions, tools }), { transport });
    session.on("transport_event", (event) => agents.events.push(event.type));
    session.on("error", ({ error }) => agents.errors.push(JSON.stringify(error, Object.getOwnPropertyNames(error ?? {}))));
    session.on("history_updated", (history) => {
      agents.history = history.filter(({ type }) => type === "message").map(({ itemId, role, status, content }) => ({
        id: itemId,
        role,
        status,
        text: content.map((part) => part.text ?? part.transcript ?? "").join(" "),
      }));
    });
    agents.session = session;
    const start = performance.now();
    await session.connect({ apiKey: key });
    agents.connectMs = performance.now() - start;
    listen(face.srcObject);
    return transport.callId;
  },

  say: (text) => agents.session.sendMessage(text),
  interrupt: () => agents.session.interrupt(),
  close: () => agents.session.close(),

  /** root mean square of what is heard now, 1 = full scale */
  loudness: () => 0,
  /** [width, height] and frames shown so far */
  picture: () => [face.videoWidth, face.videoHeight, face.getVideoPlaybackQuality().totalVideoFrames],
};

const weatherTool = (result) =>
  tool({
    name: "weather",
    description: "Tells the weather at a place.",
    parameters: {
      type: "object",
      properties: { place: { type: "string" } },
      required: ["place"],
      additionalProperties: false,
    },
    execute: (input) => {
      agents.calls.push(input);
      return result;
    },
  });

function listen(stream) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  agents.loudness = () => {
    analyser.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
  };
}

window.agents = agents;
