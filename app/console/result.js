// <call-result>: what a call answered: a table where there are rows, JSON otherwise.

import { Problem } from "./api.js";
import { button, copyButton, h, hWith, prose } from "./dom.js";
import { numberAsWritten, parseExactly } from "./json.js";
import { milliseconds, number, plural, size } from "./format.js";

/** Rows and characters that are painted of a large result; copying takes all of it. */
const MOST_ROWS = 500;
const MOST_COLUMNS = 40;
const MOST_CHARACTERS = 200_000;

export class CallResult extends HTMLElement {
  connectedCallback() {
    this.setAttribute("aria-live", "polite");
  }

  /** @param {string} words */
  wait(words) {
    this.replaceChildren(h("p.quiet", words));
  }

  /** @param {RawAnswer} answer */
  show({ text, type, ms, requestId }) {
    const value = /json/.test(type) ? tried(text) : undefined;
    const found = tables(value);
    const summary = h(
      "p.result-facts",
      h("span.badge.good", "ok"),
      h("span.number", milliseconds(ms)),
      h("span.quiet.number", size(new TextEncoder().encode(text).length)),
      requestId ? hWith("a", { href: `#/calls?request_id=${requestId}` }, "See the call") : null,
      copyButton(() => text, "Copy the result"),
    );
    const json = hWith(
      "pre.json",
      { tabindex: "0", "aria-label": "The result as JSON" },
      cut(value === undefined ? text : JSON.stringify(value, null, 2)),
    );
    if (!found.length) {
      this.replaceChildren(summary, json);
      return;
    }
    const shown = h("div.tables", ...found.map(({ name, rows }) => table(name, rows)));
    json.hidden = true;
    const choose = (/** @type {boolean} */ asTable) => {
      shown.hidden = !asTable;
      json.hidden = asTable;
      buttons.forEach((button, index) => button.setAttribute("aria-pressed", String((index === 0) === asTable)));
    };
    const buttons = [
      button("Table", () => choose(true), { class: "small", "aria-pressed": "true" }),
      button("JSON", () => choose(false), { class: "small", "aria-pressed": "false" }),
    ];
    summary.querySelector("a, button")?.before(h("span.joined", ...buttons));
    this.replaceChildren(
      summary,
      rest(
        value,
        found.map(({ name }) => name),
      ),
      shown,
      json,
    );
  }

  /** @param {Problem} problem */
  fail(problem) {
    this.replaceChildren(
      h(
        "p.result-facts",
        h("span.badge.bad", problem.code.replaceAll("_", " ") || "failed"),
        problem.status ? h("span.quiet", `HTTP ${problem.status}`) : null,
        problem.requestId ? hWith("a", { href: `#/calls?request_id=${problem.requestId}` }, "See the call") : null,
      ),
      h("p.failure", ...prose(problem.message)),
      problem.retryAfter ? h("p.quiet", `Again in ${plural(problem.retryAfter, "second")}.`) : "",
    );
  }
}

/** @param {string} text */
function tried(text) {
  try {
    return parseExactly(text);
  } catch {
    return undefined;
  }
}

/** @param {string} text */
function cut(text) {
  return text.length > MOST_CHARACTERS
    ? `${text.slice(0, MOST_CHARACTERS)}\n… ${number(text.length - MOST_CHARACTERS)} more characters; “Copy the result” takes all.`
    : text;
}

/** @typedef {Record<string, unknown>[]} Rows */

/** The lists of objects at the top of a result, and of rows beside the names of their columns. @param {any} value @returns {{name: string, rows: Rows}[]} */
function tables(value) {
  if (Array.isArray(value)) return areRows(value) ? [{ name: "", rows: value }] : [];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, list]) => {
    // Of a query's result the columns describe the rows, and head them.
    if (!Array.isArray(list) || !list.length || (name === "columns" && Array.isArray(value.rows))) return [];
    if (areRows(list)) return [{ name, rows: list }];
    const columns = Array.isArray(value.columns)
      ? value.columns.map((/** @type {any} */ column) => (typeof column === "string" ? column : String(column?.name)))
      : null;
    if (!columns || !list.every((row) => Array.isArray(row) && row.length === columns.length)) return [];
    return [
      {
        name,
        rows: list.map((row) =>
          Object.fromEntries(
            columns.map((/** @type {string} */ column, /** @type {number} */ index) => [column, row[index]]),
          ),
        ),
      },
    ];
  });
}

/** @param {unknown[]} list @returns {list is Rows} */
function areRows(list) {
  return list.length > 0 && list.every((item) => typeof item === "object" && item !== null && !Array.isArray(item));
}

/** @param {string} name @param {Rows} rows */
export function table(name, rows) {
  const columns = [...new Set(rows.slice(0, MOST_ROWS).flatMap((row) => Object.keys(row)))].slice(0, MOST_COLUMNS);
  const numeric = new Set(
    columns.filter((column) =>
      rows.every((row) => {
        const value = held(row, column);
        return value === null || value === undefined || numberAsWritten(value) !== null;
      }),
    ),
  );
  const kind = (/** @type {string} */ column) => (numeric.has(column) ? "number right" : null);
  const body = rows.slice(0, MOST_ROWS).map((row) =>
    h(
      "tr",
      ...columns.map((column) => {
        const value = held(row, column);
        return hWith("td", { class: kind(column) ?? length(value) }, cell(value));
      }),
    ),
  );
  const title = `${name && name !== "rows" ? `${name}: ` : ""}${plural(rows.length, "row")}${rows.length > MOST_ROWS ? `, the first ${MOST_ROWS} shown` : ""}`;
  return hWith(
    "div.table-wrap",
    { tabindex: "0", role: "region", "aria-label": title },
    h(
      "table.rows",
      h("caption", title),
      h(
        "thead",
        h("tr", ...columns.map((column) => hWith("th", { scope: "col", class: kind(column), title: column }, column))),
      ),
      h("tbody", ...body),
    ),
  );
}

/** What a row has of its own: a column may be called `constructor`. @param {Rows[number]} row @param {string} column */
const held = (row, column) => (Object.hasOwn(row, column) ? row[column] : undefined);

/** How much room a value wants: what is short, or one word as a time is, stands in one line. @param {unknown} value */
function length(value) {
  if (value === null || value === undefined || numberAsWritten(value) !== null) return null;
  return /^(.{0,24}|\S{0,40})$/.test(typeof value === "string" ? value : JSON.stringify(value)) ? "short" : "long";
}

/** @param {unknown} value */
function cell(value) {
  if (value === null || value === undefined) return h("span.quiet", value === null ? "null" : "");
  const written = numberAsWritten(value);
  if (written !== null) return written;
  if (typeof value === "object") return h("code", short(JSON.stringify(value)));
  return short(String(value));
}

/** @param {string} text */
function short(text) {
  return text.length > 300 ? hWith("span", { title: text.slice(0, 2000) }, `${text.slice(0, 300)} …`) : text;
}

/** What stands beside the tables, such as `truncated`. @param {any} value @param {string[]} shown */
function rest(value, shown) {
  if (Array.isArray(value)) return "";
  const hidden = ["success", "columns", ...shown];
  return facts(Object.entries(value).filter(([name]) => !hidden.includes(name))) ?? "";
}

/** Whether a value stands in a line with others. @param {unknown} value */
const isShort = (value) =>
  value === null ||
  (numberAsWritten(value) ?? (typeof value === "object" ? " ".repeat(40) : String(value))).length < 40;

/** Names and values, beside each other where they are few and short; an object within has its own. @param {[string, unknown][]} entries @param {number} [depth] @returns {HTMLElement | null} */
export function facts(entries, depth = 0) {
  if (!entries.length) return null;
  if (!depth && entries.length <= 6 && entries.every(([, value]) => isShort(value)))
    return h(
      "dl.facts.in-a-row.result-rest",
      ...entries.map(([name, value]) => h("div", h("dt", name), h("dd", cell(value)))),
    );
  const rows = entries.flatMap(([name, value]) => {
    const isNested = depth < 2 && typeof value === "object" && value !== null && !Array.isArray(value);
    const nested = isNested && numberAsWritten(value) === null ? facts(Object.entries(value), depth + 1) : null;
    return [h("dt", name), h("dd", nested ?? cell(value))];
  });
  return h("dl.facts.result-rest", ...rows);
}

customElements.define("call-result", CallResult);
