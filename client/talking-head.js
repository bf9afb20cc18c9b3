/** Defines the <talking-head> tag; import element.js instead to name it yourself. */
import { TalkingHead } from "./element.js";

if (!customElements.get("talking-head")) customElements.define("talking-head", TalkingHead);

export { TalkingHead };
