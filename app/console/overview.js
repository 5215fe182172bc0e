// <overview-page>: whether all is well, how much is done how quickly, what runs, what is slow and what fails.

import "./chart.js";
import "./running.js";
import { h, hWith, keyed, say } from "./dom.js";
import { stream } from "./events.js";
import { milliseconds, number, outcomeInWords, percent, plural, rate, sentence, since, wholeTime } from "./format.js";
import { calmly } from "./still.js";
import { shortName, verdict } from "./verdict.js";

const STATES = {
  ready: "Ready",
  degraded: "Works in part",
  down: "Does not answer",
  unconfigured: "Not configured",
  unknown: "Not asked yet",
};

const QUANTILES = /** @type {const} */ (["p50", "p95", "p99"]);

export class OverviewPage extends HTMLElement {
  #title = h("h1");
  #detail = h("p.quiet.number");
  #verdict = hWith(
    "section.verdict",
    { role: "status" },
    hWith("span.lamp", { "aria-hidden": "true" }),
    h("div", this.#title, this.#detail),
  );
  #servers = h("ul.servers");
  #charts = { calls: chart("Calls a second"), errors: chart("Failed calls"), times: chart("Time a call takes") };
  #slowest = h("ol.ranking");
  #failing = h("ol.ranking");
  #none = {
    slowest: h(
      "p.quiet.none",
      "No calls in the last 15 minutes. Try one under ",
      hWith("a", { href: "#/tools" }, "Tools"),
      ".",
    ),
    failing: h("p.quiet.none", "Nothing has failed in the last 15 minutes."),
  };
  #update = () => this.isConnected && this.#show();
  #shown = new AbortController();

  connectedCallback() {
    if (!this.firstChild) this.#build();
    const { signal } = (this.#shown = new AbortController());
    // Charts keep their place, whatever they show.
    const tick = () => stream.snapshot && this.#showCharts(stream.snapshot);
    stream.addEventListener("tick", tick, { signal });
    stream.addEventListener("snapshot", this.#update, { signal });
    stream.addEventListener("state", () => calmly(this.#update), { signal });
    this.#show();
    tick();
  }

  disconnectedCallback() {
    this.#shown.abort();
  }

  #build() {
    this.append(
      this.#verdict,
      hWith("section", { "aria-label": "Servers" }, this.#servers),
      hWith(
        "section.charts",
        { "aria-label": "The last 15 minutes" },
        this.#charts.calls.card,
        this.#charts.errors.card,
        this.#charts.times.card,
      ),
      h(
        "div.columns",
        h("section.card", h("h2", "Running now"), h("running-calls")),
        h(
          "section.card",
          hWith(
            "h2",
            { title: "95 of 100 calls took no longer; of fewer than 20 it is the longest" },
            "Slowest ",
            h("small", "p95 of 15 minutes"),
          ),
          this.#slowest,
          this.#none.slowest,
        ),
        h("section.card", h("h2", "Failing most ", h("small", "of 15 minutes")), this.#failing, this.#none.failing),
      ),
    );
  }

  #show() {
    const { tone, title, detail } = verdict(stream);
    this.#verdict.dataset.tone = tone;
    say(this.#title, title);
    say(this.#detail, detail);
    document.title = `${tone === "bad" ? "(!) " : ""}${title} · Switchboard`;
    const { snapshot } = stream;
    this.toggleAttribute("data-stale", stream.state === "waiting");
    if (!snapshot) return;
    this.toggleAttribute("data-known", true);
    this.#servers.hidden = !snapshot.servers.length;
    keyed(this.#servers, snapshot.servers, (server) => server.id, serverCard, updateServerCard);
    this.#showRankings(snapshot);
  }

  /** @param {Snapshot} snapshot */
  #showCharts(snapshot) {
    const { series } = stream;
    if (!series) return;
    const { from, step } = series;
    // The newest step has only begun: of its first moments nothing can be said, unless it is the only one there is.
    const lasts = Math.max(1, Math.min(step, snapshot.at - from - step * (series.calls.length - 1)));
    const isTold = lasts > step / 3 || !series.calls.slice(0, -1).some(Boolean);
    const past = /** @type {<T>(values: T[]) => T[]} */ ((values) => (isTold ? values : values.slice(0, -1)));
    const rates = series.calls.map((count, at) => count / (at === series.calls.length - 1 ? lasts : step));
    const share = past(series.calls).map((calls, index) => (calls ? (100 * (series.errors[index] ?? 0)) / calls : 0));
    const { calls, errors, times } = this.#charts;
    say(calls.figure, rate(snapshot.rate.calls));
    calls.chart.data = {
      from,
      step,
      lines: [{ name: "calls", kind: "calls", filled: true, values: past(rates) }],
      format: (value) => rate(value),
      least: 1,
    };
    say(errors.figure, percent(snapshot.rate.errors, snapshot.rate.calls));
    errors.chart.data = {
      from,
      step,
      lines: [{ name: "failed", kind: "errors", filled: true, values: share }],
      format: (value) => `${rate(value)} %`,
      least: 4,
    };
    say(times.figure, milliseconds(snapshot.p95));
    times.chart.data = {
      from,
      step,
      logarithmic: true,
      lines: QUANTILES.map((name) => ({ name, kind: name, values: past(series[name]) })).reverse(),
      format: shortTime,
      least: 10,
    };
    say(times.note, "p95 now");
    times.card.querySelector(".legend")?.removeAttribute("hidden");
  }

  /** @param {Snapshot} snapshot */
  #showRankings({ slowest, failing }) {
    const worst = Math.max(1, ...slowest.map((entry) => entry.p95));
    /** @param {{server: string, operation: string}} entry @param {string} [more] */
    const ranked = (entry, more = "") => ({
      key: `${entry.server} ${entry.operation}`,
      entry,
      href: `#/calls?server=${entry.server}&operation=${encodeURIComponent(entry.operation)}${more}`,
    });
    const slow = slowest.map((entry) => ({
      ...ranked(entry),
      value: milliseconds(entry.p95),
      about: plural(entry.calls, "call"),
      share: entry.p95 / worst,
    }));
    const most = Math.max(1, ...failing.map((entry) => entry.errors));
    const fails = failing.map((entry) => ({
      ...ranked(entry, "&outcome=!ok"),
      value: `${number(entry.errors)} of ${number(entry.calls)}`,
      about: `${percent(entry.errors, entry.calls)}, mostly ${outcomeInWords(entry.outcome)}`,
      share: entry.errors / most,
    }));
    keyed(this.#slowest, slow, (row) => row.key, rankingRow, updateRankingRow);
    keyed(this.#failing, fails, (row) => row.key, rankingRow, updateRankingRow);
    this.#none.slowest.hidden = slow.length > 0;
    this.#none.failing.hidden = fails.length > 0;
  }
}

/** @param {string} name */
function chart(name) {
  const drawn = hWith("time-chart", { "data-name": name });
  const figure = h("span.figure.number", "–");
  const note = h("small", "now");
  const legend = hWith(
    "p.legend",
    { "aria-hidden": "true", hidden: true },
    ...QUANTILES.map((line) => hWith("span", { class: line }, line)),
  );
  const card = h("div.card.chart", h("h2", name), h("p.chart-now", figure, " ", note), legend, drawn);
  return { card, figure, note, chart: drawn };
}

/** @param {ServerState} server */
function serverCard(server) {
  const card = hWith(
    "li.card.server",
    { "data-server": server.id },
    hWith("h2", { title: server.name }, shortName(server)),
    h("p.state", hWith("span.lamp", { "aria-hidden": "true" }), h("span.state-words"), h("span.quiet.state-since")),
    h("p.reason"),
    h("ul.off"),
  );
  updateServerCard(card, server);
  return card;
}

/** @param {HTMLElement} card @param {ServerState} server */
function updateServerCard(card, server) {
  card.dataset.state = server.state;
  const [words, when, reason, off] = [".state-words", ".state-since", ".reason", ".off"].map(
    (name) => /** @type {HTMLElement} */ (card.querySelector(name)),
  );
  if (!words || !when || !reason || !off) return;
  say(words, STATES[server.state] ?? server.state);
  say(when, `since ${since(server.since)}`);
  when.title = wholeTime(server.since);
  const reasons = Object.entries({ ...server.off, ...server.limited });
  // Where single tools are off each says why, and the sum of it would say it twice.
  say(reason, reasons.length ? "" : sentence(server.reason ?? ""));
  reason.hidden = !reason.textContent;
  keyed(
    off,
    reasons,
    ([tool]) => tool,
    ([tool, why]) => h("li", h("code", tool), " ", why),
  );
}

/** @param {Ranked} row */
function rankingRow(row) {
  const made = h(
    "li",
    hWith("a", { href: row.href }, row.entry.operation),
    h("span.number.value"),
    hWith("meter", { min: 0, max: 1, "aria-hidden": "true" }),
    h("span.quiet.number.about"),
  );
  updateRankingRow(made, row);
  return made;
}

/** @param {HTMLElement} made @param {Ranked} row */
function updateRankingRow(made, row) {
  const [value, about] = [".value", ".about"].map((name) => made.querySelector(name));
  if (value) say(value, row.value);
  if (about) say(about, `${row.entry.server} · ${row.about}`);
  /** @type {HTMLMeterElement | null} */ (made.querySelector("meter"))?.setAttribute("value", row.share.toFixed(3));
}

/** @param {number} ms */
function shortTime(ms) {
  return ms >= 1000 ? `${Number((ms / 1000).toPrecision(2))} s` : `${Number(ms.toPrecision(2))} ms`;
}

customElements.define("overview-page", OverviewPage);
