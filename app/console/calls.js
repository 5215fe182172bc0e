// <calls-page>: calls as they end, filtered by any column; one of them opened beside the list.

import "./call_details.js";
import "./running.js";
import { badge, button, h, hWith, keyed, say } from "./dom.js";
import { stream } from "./events.js";
import { milliseconds, number, outcomeInWords, plural, timeOfDay, wholeTime } from "./format.js";
import { isStill } from "./still.js";

/** @typedef {keyof typeof TITLES} Column */

/** Rows that are shown of those that are kept: more would be slow to paint and are not read. */
const MOST_SHOWN = 100;
/** Calls at a time that nobody can follow: they are shown without an effect, and less often. */
const MANY = 10;
/** Milliseconds between two such looks. */
const PAUSE = 750;

const TITLES = {
  ended: "Ended",
  operation: "Tool",
  server: "Server",
  outcome: "Outcome",
  ms: "Took",
  face: "Way in",
  client: "Client",
  principal: "Caller",
  customer: "Customer",
  request_id: "Request",
};
const COLUMNS = /** @type {Column[]} */ (Object.keys(TITLES));
/** Of these there are too many values to suggest any. */
const UNSUGGESTED = /** @type {Column[]} */ (["ended", "ms", "request_id"]);
const HINTS = /** @type {Partial<Record<Column, string>>} */ ({ ended: "14:05", ms: "> 100", outcome: "!ok" });

export class CallsPage extends HTMLElement {
  /** @type {EndedCall[]} what is shown while it is held */
  #held = [];
  #paused = false;
  #pointedAt = false;
  #arrived = 0;
  #drawing = 0;
  #calm = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #later;
  /** @type {Partial<Record<Column, string>>} */
  #filters = {};
  #body = h("tbody");
  #told = hWith("p.quiet.number.told.feed-told", { role: "status" });
  #pause = button("Pause", () => this.#setPaused(!this.#paused));
  /** What the console asks for itself is a call, too, and seldom what somebody looks for. */
  #own = button("Console's own", () => this.#toggleOwn(), {
    "aria-pressed": "false",
    class: "only-wide",
    title: "Show the console's own calls, too",
  });
  #failures = button("Failures", () => this.#toggleFailures(), { "aria-pressed": "false" });
  /** Where it is narrow, the filters would take the whole screen. */
  #narrow = button("Filters", () => this.#showFilters(), { class: "only-narrow", "aria-expanded": "false" });
  #clear = button("Clear filters", () => this.#setFilters({}), { hidden: true });
  #empty = hWith("div.notice", { hidden: true });
  #details = hWith("call-details", { hidden: true });
  /** @type {Record<Column, HTMLInputElement>} */
  #inputs = /** @type {any} */ ({});
  #shown = new AbortController();

  connectedCallback() {
    if (!this.firstChild) this.#build();
    const { signal } = (this.#shown = new AbortController());
    const draw = () => this.#draw();
    stream.addEventListener("calls", (event) => this.#take(/** @type {CustomEvent} */ (event).detail), { signal });
    stream.addEventListener("state", draw, { signal });
    addEventListener("still", draw, { signal });
    this.#draw();
  }

  disconnectedCallback() {
    this.#shown.abort();
  }

  /** Follow an address: filters, and the call that is opened. @param {URLSearchParams} query */
  show(query) {
    /** @type {Partial<Record<Column, string>>} */
    const filters = {};
    for (const column of COLUMNS) {
      const wanted = query.get(column);
      if (wanted) filters[column] = wanted;
    }
    this.#setFilters(filters, false);
    const call = query.get("call");
    this.classList.toggle("with-details", call !== null);
    if (call !== null) this.#details.open(call);
    else this.#details.close();
    this.#markOpened(call);
  }

  #showFilters() {
    this.#narrow.setAttribute("aria-expanded", String(this.classList.toggle("with-filters")));
  }

  /** What `/` puts the cursor into. */
  get search() {
    return this.#inputs.operation;
  }

  #build() {
    const filters = h("tr.filters");
    for (const column of COLUMNS) filters.append(h("td", this.#filter(column)));
    const headings = COLUMNS.map((column) => hWith("th", { scope: "col", class: `column-${column}` }, TITLES[column]));
    const table = h(
      "table.feed",
      h("caption.hidden", "Calls, the newest first"),
      h("thead", h("tr", ...headings), filters),
      this.#body,
    );
    this.append(
      h(
        "header.page-head",
        h("h1", "Calls"),
        this.#told,
        h("div.buttons", this.#narrow, this.#own, this.#failures, this.#clear, this.#pause),
      ),
      h("section.card", h("h2", "Running now"), h("running-calls")),
      h(
        "div.feed-and-details",
        hWith("section.card.feed-card", { "aria-label": "Ended calls", tabindex: "0" }, table, this.#empty),
        this.#details,
      ),
    );
    // What moves can't be hit: the list stands still under a pointer, and while one of its rows has the focus.
    this.#body.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.#setPointedAt(true));
    this.#body.addEventListener("pointerleave", () => this.#setPointedAt(this.#body.contains(document.activeElement)));
    this.#body.addEventListener("focusin", () => this.#setPointedAt(true));
    this.#body.addEventListener("focusout", () => this.#setPointedAt(this.#body.matches(":hover")));
    this.#body.addEventListener("click", (event) => this.#clicked(event));
    this.#body.addEventListener("keydown", (event) => walk(event));
    this.#details.addEventListener("closed", () => this.#address(null));
  }

  /** @param {Column} column */
  #filter(column) {
    const list = UNSUGGESTED.includes(column) ? null : hWith("datalist", { id: `known-${column}` });
    const input = hWith("input", {
      type: "search",
      "aria-label": `Only where ${TITLES[column].toLowerCase()} has`,
      placeholder: HINTS[column] ?? "any",
      list: list ? list.id : null,
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.#setFilters({ ...this.#filters, [column]: input.value }),
      onfocus: () => list?.replaceChildren(...known(column).map((value) => hWith("option", { value }))),
    });
    this.#inputs[column] = input;
    return h("span", input, list);
  }

  /** @param {Partial<Record<Column, string>>} filters @param {boolean} [byHand] */
  #setFilters(filters, byHand = true) {
    this.#filters = {};
    for (const column of COLUMNS) {
      const wanted = filters[column] ?? "";
      if (wanted) this.#filters[column] = wanted;
      if (this.#inputs[column] && this.#inputs[column].value !== wanted) this.#inputs[column].value = wanted;
    }
    this.#failures.setAttribute("aria-pressed", String(this.#filters.outcome === "!ok"));
    this.#clear.hidden = Object.keys(this.#filters).length === 0;
    if (byHand) this.#address(openedCall(), true);
    this.#body.replaceChildren();
    this.#draw();
  }

  #toggleFailures() {
    const { outcome, ...others } = this.#filters;
    this.#setFilters(outcome === "!ok" ? others : { ...others, outcome: "!ok" });
  }

  #toggleOwn() {
    const shown = this.#own.getAttribute("aria-pressed") !== "true";
    this.#own.setAttribute("aria-pressed", String(shown));
    this.#body.replaceChildren();
    this.#draw();
  }

  /** Put what is shown into the address, so that it can be sent to somebody. @param {string | null} call @param {boolean} [inPlace] */
  #address(call, inPlace = false) {
    const query = new URLSearchParams(/** @type {Record<string, string>} */ (this.#filters));
    if (call !== null) query.set("call", call);
    const hash = `#/calls${query.size ? `?${query}` : ""}`;
    if (inPlace) history.replaceState(null, "", hash);
    else location.hash = hash;
  }

  /** @param {boolean} paused */
  #setPaused(paused) {
    this.#paused = paused;
    this.#hold();
    say(this.#pause, paused ? "Resume" : "Pause");
    this.#draw();
  }

  /** @param {boolean} pointedAt */
  #setPointedAt(pointedAt) {
    if (pointedAt === this.#pointedAt) return;
    this.#pointedAt = pointedAt;
    this.#hold();
    this.#draw();
  }

  #hold() {
    this.#held = this.#isHeld() ? stream.calls.slice() : [];
    this.#arrived = 0;
  }

  #isHeld() {
    return this.#paused || this.#pointedAt;
  }

  /** @param {{calls: EndedCall[], dropped: number}} told */
  #take({ calls }) {
    if (this.#isHeld()) this.#arrived += calls.length;
    const isFlood = calls.length > MANY;
    this.#calm = isFlood;
    if (!isFlood) this.#draw();
    else this.#later ??= setTimeout(() => this.#draw(), PAUSE);
  }

  #draw() {
    if (this.#drawing || !this.isConnected) return;
    clearTimeout(this.#later);
    this.#later = undefined;
    this.#drawing = requestAnimationFrame(() => {
      this.#drawing = 0;
      this.#drawNow();
    });
  }

  #drawNow() {
    const calls = this.#isHeld() ? this.#held : stream.calls;
    const fits = predicate(this.#filters);
    const own =
      this.#own.getAttribute("aria-pressed") === "true" || Boolean(this.#filters.operation || this.#filters.request_id);
    const wanted = (/** @type {EndedCall} */ call) => (own || !isOfTheConsole(call.operation)) && fits(call);
    /** @type {EndedCall[]} */
    const shown = [];
    for (let index = calls.length - 1; index >= 0 && shown.length < MOST_SHOWN; index -= 1) {
      const call = calls[index];
      if (call && wanted(call)) shown.push(call);
    }
    // What is held stands as it was painted: a row that moves between press and release is not hit.
    if (!(this.#isHeld() || isStill(this.#body)) || !this.#body.firstChild) {
      const calm = this.#calm || !this.#body.firstChild;
      keyed(
        this.#body,
        shown,
        (call) => call.id,
        (call) => makeRow(call, calm),
      );
      this.#markOpened(openedCall());
    }
    this.#tell(shown.length, calls.length);
  }

  /** @param {number} shown @param {number} kept */
  #tell(shown, kept) {
    const parts = [];
    if (this.#isHeld())
      parts.push(
        `${this.#paused ? "Paused" : "Held while you point at it"}${this.#arrived ? `, ${number(this.#arrived)} more since` : ""}`,
      );
    else if (stream.state === "live") parts.push("Live");
    if (Object.keys(this.#filters).length)
      parts.push(`${plural(shown, "call")}${shown === MOST_SHOWN ? " at most" : ""} of ${number(kept)}`);
    if (stream.dropped) parts.push(`sampled: ${number(stream.dropped)} left out, there were too many`);
    say(this.#told, parts.join(" · "));
    this.#empty.hidden = shown > 0 || !stream.snapshot;
    if (shown) return;
    const [title, what] = kept
      ? ["No call fits the filters", "Those that end from now on are looked at, too. “Clear filters” shows all."]
      : [
          "No calls yet",
          "They appear here as they end, within a second. Try one under Tools, or with the curl line under Connect.",
        ];
    this.#empty.replaceChildren(h("p.notice-title", title), h("p", what));
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const target = /** @type {Element} */ (event.target);
    const row = target.closest("tr");
    if (row && !getSelection()?.toString()) {
      event.preventDefault();
      this.#address(row.dataset.key ?? null);
    }
  }

  /** @param {string | null} opened */
  #markOpened(opened) {
    for (const row of this.#body.children) row.toggleAttribute("data-opened", row.getAttribute("data-key") === opened);
  }
}

/** The call that the address names. */
const openedCall = () => new URLSearchParams(location.hash.split("?")[1]).get("call");

/** Whether a call serves the pages themselves. @param {string} operation */
const isOfTheConsole = (operation) => operation.startsWith("console/");

/** @param {EndedCall} call @param {boolean} calm whether it is simply there */
function makeRow(call, calm) {
  const failed = call.outcome !== "ok";
  const cell = (/** @type {Column} */ column, /** @type {import("./dom.js").Child} */ shown, title = "") =>
    hWith("td", { class: `column-${column}`, role: "cell", title: title || null }, shown);
  return hWith(
    "tr",
    { role: "row", class: calm ? null : "arriving", "data-failed": failed },
    cell("ended", timeOfDay(call.ended), wholeTime(call.ended)),
    cell(
      "operation",
      hWith("a", { href: `#/calls?call=${encodeURIComponent(call.id)}` }, call.operation),
      call.operation,
    ),
    cell("server", call.server),
    cell("outcome", badge(!failed, outcomeInWords(call.outcome)), outcomeInWords(call.outcome)),
    cell("ms", milliseconds(call.ms)),
    cell("face", call.face),
    cell("client", call.client, call.client),
    cell("principal", call.principal, call.principal),
    cell("customer", call.customer ?? ""),
    cell("request_id", call.request_id.slice(-8), call.request_id),
  );
}

/** Move among the rows by arrows. @param {KeyboardEvent} event */
function walk(event) {
  const row = /** @type {Element} */ (event.target).closest("tr");
  const next =
    event.key === "ArrowDown" ? row?.nextElementSibling : event.key === "ArrowUp" ? row?.previousElementSibling : null;
  const link = next?.querySelector("a");
  if (!link) return;
  event.preventDefault();
  link.focus();
}

/** What is known of a column's values. @param {Column} column */
function known(column) {
  const values = new Set(stream.calls.map((call) => String(call[column] ?? "")).filter(Boolean));
  return [...values].sort().slice(0, 100);
}

/**
 * Make a test of calls: texts that a column has (`!` in front: has not), for milliseconds `> 100`.
 *
 * @param {Partial<Record<Column, string>>} filters
 * @returns {(call: EndedCall) => boolean}
 */
export function predicate(filters) {
  const tests = Object.entries(filters).map(([name, filter]) => {
    const column = /** @type {Column} */ (name);
    const text = filter.trim().toLowerCase();
    const wanted = text.replace(/^!/, "");
    const compared = column === "ms" ? /^([<>])?=?\s*(\d+(?:\.\d+)?)\s*(m?s)?$/.exec(text) : null;
    if (compared) {
      const limit = Number(compared[2]) * (compared[3] === "s" ? 1000 : 1);
      return (/** @type {EndedCall} */ call) => (compared[1] === "<" ? call.ms <= limit : call.ms >= limit);
    }
    return (/** @type {EndedCall} */ call) => {
      const has = shownAs(call, column).includes(wanted);
      return text.startsWith("!") ? wanted === "" || !has : has;
    };
  });
  return (call) => tests.every((test) => test(call));
}

/** @param {EndedCall} call @param {Column} column */
function shownAs(call, column) {
  if (column === "ended") return timeOfDay(call.ended);
  if (column === "outcome") return `${call.outcome} ${outcomeInWords(call.outcome)}`;
  return String(call[column] ?? "").toLowerCase();
}

customElements.define("calls-page", CallsPage);
