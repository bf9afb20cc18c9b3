/** Every sentence that the element shows or speaks to a screen reader, in one place. */

/** The state, in the corner of the stage. */
export const STATUS = {
  idle: "",
  connecting: "Calling…",
  listening: "Listening",
  hearing: "I hear you",
  thinking: "Thinking…",
  speaking: "Speaking",
  paused: "Go on…",
  muted: "You are muted",
  reading: "Write to me",
  failed: "No call",
  ended: "Call ended",
};

export const CONNECTING = {
  asking: "Your browser asks for the microphone: please allow it.",
  dialling: "Calling {name}…",
  again: "The connection was lost. Calling again…",
};

/** What is wrong with the microphone and what to do; the call goes on in writing. */
export const MICROPHONE = {
  denied: "The microphone is blocked, so let's write. To talk, allow it with the icon beside the address bar.",
  absent: "No microphone found, so let's write. To talk, plug one in.",
  busy: "Another program has your microphone, so let's write. To talk, close that program.",
  insecure: "Browsers give the microphone only to https:// pages and localhost, so let's write.",
  lost: "Your microphone is gone. Plug it in again, or write.",
  silent: "Nothing comes from your microphone. Is it switched on? You can also write.",
  off: "",
};

/** Our own words say it all. */
const SAID = new Set(["busy", "unauthorized", "host_not_allowed", "origin_not_allowed"]);

/** code -> [what happened, what to do]. A sentence of the server's own goes before our advice. */
const FAILURES = {
  busy: ["All lines are busy", "Somebody else is talking right now. Try again in a minute."],
  unreachable: ["Nobody picks up", "The server does not answer. Check that it is running and that you are online, then try again."],
  blocked: [
    "The line stays silent",
    "The server answered, but sound and picture do not get through. A firewall or VPN may block UDP: try another network, or ask whoever runs the server for a TURN relay.",
  ],
  lost: ["The connection is gone", "Check your network, then call again."],
  unauthorized: ["You are not on the list", "This server wants a token. Ask whoever runs it."],
  host_not_allowed: ["This door is closed", "Open the page by the address that the server printed."],
  origin_not_allowed: ["This door is closed", "The server has to allow this page: see http.origins in its configuration."],
  not_found: ["Nobody lives here", "There is no visavis server at this address. Check the “src” of the page."],
  unknown_avatar: ["Nobody by that name", "Choose another face in the settings, then call again."],
  unknown_persona: ["Nobody by that name", "Choose another persona in the settings, then call again."],
  no_webrtc: ["This browser cannot make calls", "Open the page in a current Chrome, Edge, Firefox or Safari."],
  server_error: ["Something broke", "Try again. If it stays like this, the server's log says why."],
};

export function explainFailure({ code, message }) {
  const [title, advice] = FAILURES[code] ?? FAILURES.server_error;
  return { title, told: SAID.has(code) ? "" : message, advice };
}

const PROBLEMS = {
  shaky: "The connection is shaky. Hold on…",
};

export const explainNotice = ({ code, message }) => PROBLEMS[code] ?? (message || "Something went wrong, but we can go on.");

export function explainClosing({ reason, secondsLeft }) {
  const why = { time_limit: "Our time is nearly up", idle: "It is quiet here", shutdown: "The server is about to stop" }[reason];
  const left = Math.round(secondsLeft);
  return `${why ?? "The call is about to end"}${left > 0 ? `: ${left} more second${left === 1 ? "" : "s"}` : ""}.`;
}

export function explainEnd({ reason, seconds }) {
  const minutes = Math.floor(seconds / 60);
  const length = minutes > 0 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.round(seconds)} s`;
  const title =
    { hung_up: "Nice talking to you!", time_limit: "Time is up", idle: "It was quiet for a while", shutdown: "The server has stopped" }[reason] ??
    "The call has ended";
  return { title, length: `We talked for ${length}.` };
}

export const IDEAS = ["What can you do?", "What time is it?", "What is 12 times 7?"];
