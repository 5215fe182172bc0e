// <settings-page>: the settings that are in effect and where each comes from, and why a tool is off.

import { asProblem, read } from "./api.js";
import { button, h, hWith, keyed, notice, plainTable, prose, searchInput } from "./dom.js";
import { stream } from "./events.js";
import { shortName } from "./verdict.js";

export class SettingsPage extends HTMLElement {
  #search = searchInput("Find a setting", () => this.#filter());
  #changed = button("Only what is set", () => this.#toggle(), { "aria-pressed": "false" });
  #off = h("ul.off-tools");
  #offCard = hWith("section.card", { hidden: true }, h("h2", "What is off or limited, and why"), this.#off);
  #groups = h("div.stack", h("p.quiet.none", "Asking …"));
  #none = hWith("div", { hidden: true }, notice("Nothing is called so", "“Only what is set” may hide it, too."));
  #shown = new AbortController();

  connectedCallback() {
    if (!this.firstChild) {
      this.append(
        h(
          "header.page-head",
          h("h1", "Settings"),
          h("p.quiet", "In effect since the start. Secrets are not shown."),
          h("div.buttons", this.#search, this.#changed),
        ),
        h("div.stack", this.#offCard, this.#groups, this.#none),
      );
    }
    stream.addEventListener("snapshot", () => this.#showOff(), {
      signal: (this.#shown = new AbortController()).signal,
    });
    this.#showOff();
    void this.#load();
  }

  disconnectedCallback() {
    this.#shown.abort();
  }

  get search() {
    return this.#search;
  }

  async #load() {
    try {
      const { groups } = await read("/console/settings");
      this.#groups.replaceChildren(...groups.map(group));
      this.#filter();
    } catch (error) {
      this.#groups.replaceChildren(notice("The settings can't be shown", asProblem(error).message));
    }
  }

  #toggle() {
    this.#changed.setAttribute("aria-pressed", String(this.#changed.getAttribute("aria-pressed") !== "true"));
    this.#filter();
  }

  #filter() {
    const words = this.#search.value.trim().toLowerCase().split(/\s+/);
    const onlySet = this.#changed.getAttribute("aria-pressed") === "true";
    for (const section of /** @type {NodeListOf<HTMLElement>} */ (this.#groups.querySelectorAll("section"))) {
      let shown = 0;
      for (const row of section.querySelectorAll("tbody tr")) {
        const { words: told = "", source } = /** @type {HTMLElement} */ (row).dataset;
        const fits = words.every((word) => told.includes(word)) && !(onlySet && source === "default");
        /** @type {HTMLElement} */ (row).hidden = !fits;
        shown += Number(fits);
      }
      section.hidden = !shown;
    }
    const sections = [...this.#groups.children];
    this.#none.hidden = !sections.length || sections.some((section) => !(/** @type {HTMLElement} */ (section).hidden));
  }

  /** Tools that are off are known from the stream, as the overview has them. */
  #showOff() {
    const reasons = (stream.snapshot?.servers ?? []).flatMap((server) => [
      ...(server.reason ? [[shortName(server), server.reason]] : []),
      ...Object.entries({ ...server.off, ...server.limited }),
    ]);
    this.#offCard.hidden = !reasons.length;
    keyed(
      this.#off,
      reasons,
      ([name, why]) => `${name}: ${why}`,
      ([name = "", why = ""]) => h("li", h("code", name), " ", ...prose(why)),
    );
  }
}

/** @param {{title: string, settings: Setting[]}} about */
function group({ title, settings }) {
  const rows = settings.map(({ name, value, hidden, source, about }) => [
    h("div", h("code", name), about ? h("p.quiet.hint", ...prose(about)) : null),
    hidden ? h("span.badge", "hidden") : shown(value),
    hWith("span", { class: source === "default" ? "quiet" : null }, source),
  ]);
  const table = plainTable(["Setting", "Value", "From"], rows);
  table.classList.add("settings");
  settings.forEach(({ name, source, about }, at) => {
    const words = [title, name, about, source].join(" ").toLowerCase();
    Object.assign(table.tBodies[0]?.rows[at]?.dataset ?? {}, { words, source });
  });
  return h("section.card", h("h2", title), table);
}

/** @param {unknown} value */
function shown(value) {
  const isNothing =
    value === null || value === "" || (typeof value === "object" && !Object.keys(/** @type {object} */ (value)).length);
  if (isNothing) return h("span.quiet", "not set");
  return h("code", typeof value === "string" ? value : JSON.stringify(value));
}

customElements.define("settings-page", SettingsPage);
