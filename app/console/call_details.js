// <call-details>: one call: who made it, where its time went, and the log's lines of its request.

import { asProblem, read } from "./api.js";
import { button, copyButton, h, hWith, say } from "./dom.js";
import { stream } from "./events.js";
import { age, milliseconds, outcomeInWords, wholeTime } from "./format.js";
import { cancelButton } from "./running.js";
import { calmly } from "./still.js";

const STAGES = /** @type {Record<string, string>} */ ({
  parsed: "read the arguments",
  ran: "worked for it, with the backend",
  wrote: "wrote the result",
});
/** While a call runs it is asked for as often. */
const AGAIN = 1000;

export class CallDetails extends HTMLElement {
  /** @type {string | null} */
  #id = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #title = hWith("h2", { tabindex: "-1" });
  #content = h("div");
  #took = h("span.number");
  /** Where its time went, and the log. */
  #story = h("div");
  #told = "";
  /** @type {string | null} the call that is shown as one that runs */
  #running = null;
  /** @type {OpenedCall | null} */
  #call = null;
  #update = () => this.#call?.id === this.#id && this.#show(this.#call);

  connectedCallback() {
    if (this.firstChild) return;
    this.setAttribute("role", "region");
    this.setAttribute("aria-label", "The call that is opened");
    this.className = "card details";
    const close = button("Close", () => this.#leave(), { class: "small" });
    this.append(h("header", this.#title, close), this.#content);
    this.addEventListener("keydown", (event) => event.key === "Escape" && this.#leave());
  }

  /** @param {string} id */
  open(id) {
    if (id === this.#id) return;
    this.#id = id;
    this.#running = null;
    this.hidden = false;
    this.#content.replaceChildren(h("p.quiet", "Asking …"));
    say(this.#title, "Call");
    void this.#load(id, true);
  }

  close() {
    this.#id = null;
    this.hidden = true;
    clearTimeout(this.#timer);
  }

  #leave() {
    this.dispatchEvent(new Event("closed"));
  }

  /** @param {string} id @param {boolean} first */
  async #load(id, first) {
    clearTimeout(this.#timer);
    try {
      /** @type {OpenedCall} */
      const call = await read(`/console/calls/${encodeURIComponent(id)}`);
      if (id !== this.#id) return;
      this.#call = call;
      if (first) this.#show(call);
      else {
        say(this.#took, took(call));
        calmly(this.#update);
      }
      if (isRunning(call)) this.#timer = setTimeout(() => void this.#load(id, false), AGAIN);
    } catch (error) {
      if (id !== this.#id) return;
      const problem = asProblem(error);
      const what =
        problem.status === 404
          ? "The gateway remembers the last 2,000 calls; this one is not among them, or is not yours to see."
          : problem.message;
      this.#content.replaceChildren(h("p", what));
    }
    if (first) this.#title.focus({ preventScroll: false });
  }

  /** @param {OpenedCall} call */
  #show(call) {
    say(this.#title, call.operation);
    const running = isRunning(call);
    const failed = !running && call.outcome !== "ok";
    const outcome = running ? "running" : outcomeInWords(call.outcome ?? "");
    const story = JSON.stringify([call.stages, call.log]);
    if (story !== this.#told) this.#story.replaceChildren(...stages(call.stages ?? []), ...log(call.log ?? []));
    this.#told = story;
    say(this.#took, took(call));
    if (running && this.#running === call.id) return; // so that its button keeps the focus
    this.#running = running ? call.id : null;
    const facts = /** @type {[string, string | null | undefined][]} */ ([
      ["Server", call.server],
      ["Way in", call.face],
      ["Client", call.client],
      ["Caller", call.principal],
      ["Customer", call.customer],
      ["Started", call.started ? wholeTime(call.started) : null],
      ["Ended", call.ended ? wholeTime(call.ended) : null],
    ]).filter(([, value]) => value);
    this.#content.replaceChildren(
      h(
        "p.details-outcome",
        hWith("span", { class: `badge ${running ? "busy" : failed ? "bad" : "good"}` }, outcome),
        this.#took,
        running && call.can_cancel && stream.hello?.may.act ? cancelButton(call) : null,
      ),
      h("dl.facts", ...facts.flatMap(([name, value]) => [h("dt", name), h("dd", value)])),
      h(
        "p.details-request",
        h("span.quiet", "Request"),
        h("code", call.request_id),
        copyButton(() => call.request_id),
      ),
      this.#story,
    );
  }
}

/** @param {OpenedCall} call */
function isRunning(call) {
  return call.outcome === null || call.outcome === undefined;
}

/** @param {OpenedCall} call */
function took(call) {
  return isRunning(call) ? `for ${age(stream.now() - (call.started ?? stream.now()))}` : milliseconds(call.ms);
}

/** @param {Stage[]} told */
function stages(told) {
  if (!told.length)
    return [
      h("h3", "Where the time went"),
      h(
        "p.quiet",
        "Stages are taken down while somebody has the console open; nobody had when this call was made, or there were too many calls.",
      ),
    ];
  const whole = Math.max(
    0.001,
    told.reduce((sum, stage) => sum + stage.ms, 0),
  );
  const rows = merged(told).map((stage) =>
    h(
      "li",
      h(
        "span",
        STAGES[stage.name] ?? stage.name,
        stage.over === false
          ? h("span.quiet", " still")
          : stage.times > 1
            ? h("span.quiet", ` ${stage.times} times`)
            : null,
      ),
      h("span.number", milliseconds(stage.ms)),
      hWith("meter", { min: 0, max: 1, value: (stage.ms / whole).toFixed(3), "aria-hidden": "true" }),
    ),
  );
  return [h("h3", "Where the time went"), h("ol.stages", ...rows)];
}

/** Stages one after another of the same name as one, since some are gone through many times. @param {Stage[]} told */
function merged(told) {
  /** @type {(Stage & {times: number})[]} */
  const stages = [];
  for (const stage of told) {
    const last = stages.at(-1);
    if (last?.name === stage.name) Object.assign(last, { ...stage, ms: last.ms + stage.ms, times: last.times + 1 });
    else stages.push({ ...stage, times: 1 });
  }
  return stages;
}

/** @param {string[]} lines */
function log(lines) {
  const shown = lines.length
    ? hWith("pre.log", { tabindex: "0", "aria-label": "The log's lines of this request" }, lines.join("\n"))
    : h("p.quiet", "The process remembers no line of it any more.");
  return [h("h3", "Log"), shown];
}

customElements.define("call-details", CallDetails);
