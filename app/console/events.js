// The one stream of events that all pages read: what it brought, and whether it comes. A hidden tab has none.

import { Problem, problemOf, root } from "./api.js";
import { calmly } from "./still.js";

/** Calls that are kept to be looked through: as many as the gateway remembers itself. */
const MOST_KEPT = 2000;
/** Seconds of a series that are kept. */
const KEPT = 900;
const LONGEST_WAIT = 10;
/** A second without a snapshot is usual on a busy machine; this long is not. */
const SILENT = 10_000;

/** @typedef {{name: string, data: string, id: string}} Message an event as the wire has it */

/**
 * Iterate over the events of a stream, those without data too.
 *
 * @param {Response} response
 * @returns {AsyncGenerator<Message>}
 */
export async function* messagesOf(response) {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const messages = (rest + value).split("\n\n");
    rest = messages.pop() ?? "";
    for (const message of messages) {
      const told = { name: "message", data: "", id: "" };
      for (const line of message.split("\n")) {
        if (line.startsWith("event:")) told.name = line.slice(6).trim();
        else if (line.startsWith("data:")) told.data += line.slice(5);
        else if (line.startsWith("id:")) told.id = line.slice(3).trim();
      }
      yield told;
    }
  }
}

/** Tells of `state`, `tick` (what a snapshot says is known), `snapshot` (it may be shown) and `calls`, in events of these names. */
export class Stream extends EventTarget {
  /** @type {"connecting" | "live" | "waiting" | "refused" | "hidden"} */
  state = "connecting";
  /** @type {Problem | null} why it does not come */
  problem = null;
  /** @type {Hello | null} */
  hello = null;
  /** @type {Snapshot | null} */
  snapshot = null;
  /** @type {Series | null} */
  series = null;
  /** @type {EndedCall[]} the oldest first */
  calls = [];
  /** Calls that were not shown, since there were too many. */
  dropped = 0;
  /** By how many seconds the gateway's clock is ahead of ours. */
  #ahead = 0;
  #failures = 0;
  /** @type {AbortController | null} */
  #reading = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #tell = () => this.dispatchEvent(new Event("snapshot"));

  /** Read from now on, whenever the page can be seen. */
  start() {
    document.addEventListener("visibilitychange", () => this.restart());
    this.restart();
  }

  /** Begin anew: somebody has signed in, or wants it now. */
  restart() {
    this.#reading?.abort();
    this.#reading = null;
    clearTimeout(this.#timer);
    if (document.hidden) {
      this.#become("hidden");
    } else {
      this.#reading = new AbortController();
      void this.#read(this.#reading);
    }
  }

  /** Begin anew for somebody else, who may not see what was told before. */
  forget() {
    this.hello = this.snapshot = this.series = null;
    this.calls = [];
    this.dropped = 0;
    this.restart();
  }

  /** The gateway's time, in seconds since 1970. */
  now() {
    return Date.now() / 1000 + this.#ahead;
  }

  /** @param {AbortController} reading */
  async #read(reading) {
    if (this.state !== "waiting") this.#become("connecting");
    let silence = setTimeout(() => reading.abort("silent"), SILENT);
    try {
      const headers = { accept: "text/event-stream" };
      const response = await fetch(`${root}/console/events`, { headers, signal: reading.signal, cache: "no-store" });
      if (!response.ok) throw await problemOf(response);
      for await (const message of messagesOf(response)) {
        clearTimeout(silence);
        silence = setTimeout(() => reading.abort("silent"), SILENT);
        this.#take(message);
      }
      throw new Problem("The gateway has ended the stream.");
    } catch (error) {
      if (reading !== this.#reading) return; // another one reads, or nobody looks
      this.#fail(error instanceof Problem ? error : new Problem("The gateway does not answer."));
    } finally {
      clearTimeout(silence);
    }
  }

  /** @param {Problem} problem */
  #fail(problem) {
    this.problem = problem;
    if (problem.status === 401 || problem.status === 403 || problem.status === 404) {
      this.#become("refused");
      if (problem.status === 401) dispatchEvent(new CustomEvent("signedout", { detail: problem }));
      return;
    }
    this.#failures += 1;
    const wait = problem.retryAfter ?? Math.min(LONGEST_WAIT, 2 ** (this.#failures - 1));
    this.#timer = setTimeout(() => this.restart(), wait * 1000);
    this.#become("waiting");
  }

  /** @param {Message} message */
  #take({ name, data }) {
    if (!data) return; // a heartbeat
    const told = JSON.parse(data);
    if (name === "hello") {
      this.hello = told;
      this.#failures = 0;
      this.series = null;
      this.problem = null;
      this.#become("live");
    } else if (name === "snapshot") {
      this.#ahead = told.at - Date.now() / 1000;
      this.series = this.series ? extended(this.series, told.series) : told.series;
      this.snapshot = told;
      this.dispatchEvent(new Event("tick"));
      calmly(this.#tell);
    } else if (name === "end") {
      throw new Problem(told.detail ?? "The gateway has ended the stream.", told);
    } else if (name === "calls") {
      const known = new Set(this.calls.slice(-200).map((call) => call.id));
      const fresh = /** @type {EndedCall[]} */ (told.calls).filter((call) => !known.has(call.id));
      this.calls.push(...fresh);
      if (this.calls.length > MOST_KEPT * 1.2) this.calls.splice(0, this.calls.length - MOST_KEPT);
      this.dropped += told.dropped;
      this.dispatchEvent(new CustomEvent("calls", { detail: { calls: fresh, dropped: told.dropped } }));
    }
  }

  /** @param {Stream["state"]} state */
  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

/** A series with its newest points put in. @param {Series} series @param {Series} newest @returns {Series} */
export function extended(series, newest) {
  const at = Math.round((newest.from - series.from) / series.step);
  const merged = { ...series };
  const length = Math.max(series.calls.length, at + newest.calls.length);
  const surplus = Math.max(0, length - KEPT / series.step);
  const joined = (/** @type {any} */ values, /** @type {any} */ more, /** @type {any} */ none) =>
    Array.from({ length }, (_, index) => more[index - at] ?? values[index] ?? none).slice(surplus);
  for (const line of /** @type {const} */ (["calls", "errors"])) merged[line] = joined(series[line], newest[line], 0);
  for (const line of /** @type {const} */ (["p50", "p95", "p99"]))
    merged[line] = joined(series[line], newest[line], null);
  merged.from = series.from + surplus * series.step;
  return merged;
}

/** The page's own. */
export const stream = new Stream();
