// <tools-page>: every tool, resource and prompt that the viewer may use, to be tried.

import "./result.js";
import "./schema_form.js";
import "./snippets.js";
import { ask, asProblem, read } from "./api.js";
import { button, h, keyed, notice, prose } from "./dom.js";
import { NotFilled } from "./schema_form.js";

/** @typedef {import("./api.js").ToolInfo} ToolInfo */
/** @typedef {{server: string, name: string, title?: string, description?: string, uri: string | null, template: string, policy?: string | null}} ResourceInfo */
/** @typedef {{server: string, name: string, title?: string, description?: string, arguments?: {name: string, description?: string, required?: boolean}[], policy?: string | null}} PromptInfo */
/** @typedef {{kind: "tool" | "resource" | "prompt", server: string, name: string, words: string, about: any}} Entry */

export class ToolsPage extends HTMLElement {
  /** @type {Entry[] | null} */
  #entries = null;
  /** @type {string[]} */
  #wanted = [];
  #search = h("input", {
    type: "search",
    placeholder: "Find a tool or a resource",
    "aria-label": "Find a tool or a resource",
    autocomplete: "off",
    oninput: () => this.#list(),
  });
  #groups = h("div", { class: "groups" });
  #opened = h("div", { class: "opened" });
  /** @type {Map<string, HTMLElement>} what was opened keeps what was typed into it */
  #kept = new Map();

  connectedCallback() {
    if (!this.firstChild) {
      this.append(
        h("header", { class: "page-head" }, h("h1", {}, "Tools")),
        h(
          "div",
          { class: "tools" },
          h("nav", { class: "card tool-list", "aria-label": "Tools and resources" }, this.#search, this.#groups),
          this.#opened,
        ),
      );
      this.#groups.addEventListener("keydown", (event) => walk(this.#groups, event));
      this.#search.addEventListener("keydown", (event) => event.key === "ArrowDown" && walk(this.#groups, event));
    }
    if (!this.#entries) void this.#load();
  }

  get search() {
    return this.#search;
  }

  /** @param {URLSearchParams} _query @param {string[]} wanted kind, server and name */
  show(_query, wanted) {
    this.#wanted = wanted;
    this.#open();
  }

  async #load() {
    this.#opened.replaceChildren(h("p", { class: "quiet" }, "Asking …"));
    try {
      /** @type {{tools: ToolInfo[], resources: ResourceInfo[], prompts?: PromptInfo[]}} */
      const { tools, resources, prompts = [] } = await read("/console/tools");
      this.#entries = [
        ...tools.map((tool) => entry("tool", tool, tool.title)),
        ...resources.map((resource) => entry("resource", { ...resource, name: resource.template }, resource.title)),
        ...prompts.map((prompt) => entry("prompt", prompt, prompt.title)),
      ];
      this.#list();
      this.#open();
    } catch (error) {
      const again = button("Try again", () => void this.#load());
      this.#opened.replaceChildren(notice("The tools can't be listed", `${asProblem(error).message} `, again));
    }
  }

  #list() {
    const text = this.#search.value.trim().toLowerCase();
    const shown = (this.#entries ?? []).filter(({ words }) => text.split(/\s+/).every((word) => words.includes(word)));
    /** @type {Map<string, Entry[]>} */
    const groups = new Map();
    for (const one of shown) {
      const group = `${one.server} ${one.kind}s`;
      groups.set(group, [...(groups.get(group) ?? []), one]);
    }
    keyed(
      this.#groups,
      [...groups],
      ([name]) => name,
      (group) => updateGroup(h("section", {}, h("h2", {}, group[0]), h("ul", {})), group),
      updateGroup,
    );
    if (!groups.size)
      this.#groups.replaceChildren(
        h(
          "p",
          { class: "quiet none" },
          this.#entries?.length
            ? "Nothing is called so."
            : "Your role allows no tool. `switchboard policy explain` says why.",
        ),
      );
    this.#mark();
  }

  #mark() {
    for (const link of this.#groups.querySelectorAll("a")) {
      if (decodeURIComponent(link.hash) === `#/tools/${this.#wanted.join("/")}`)
        link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  #open() {
    if (!this.#entries) return;
    const [kind, server, ...name] = this.#wanted;
    const found = this.#entries.find(
      (one) => one.kind === kind && one.server === server && one.name === name.join("/"),
    );
    this.classList.toggle("with-tool", this.#wanted.length > 0);
    this.#mark();
    if (!found) {
      const what = this.#wanted.length
        ? notice("There is no such tool", "It may have gone, or your role does not allow it.")
        : notice(
            "Choose a tool",
            "Its form comes with an example that works on the demo data. Nothing runs before you press Run.",
          );
      this.#opened.replaceChildren(what);
      return;
    }
    const key = this.#wanted.join("/");
    let panel = this.#kept.get(key);
    if (!panel) {
      panel =
        found.kind === "tool"
          ? toolPanel(found.about)
          : found.kind === "resource"
            ? resourcePanel(found.about)
            : promptPanel(found.about);
      this.#kept.set(key, panel);
    }
    this.#opened.replaceChildren(h("a", { class: "back", href: "#/tools" }, "All tools"), panel);
    if (matchMedia("(max-width: 52rem)").matches) scrollTo(0, 0);
  }
}

/** @param {Entry["kind"]} kind @param {{server: string, name: string, description?: string}} about @param {string} [title] @returns {Entry} */
function entry(kind, about, title = "") {
  const words = [kind, about.server, about.name, title, about.description].join(" ").toLowerCase();
  return { kind, server: about.server, name: about.name, words, about };
}

/** @param {HTMLElement} section @param {[string, Entry[]]} group */
function updateGroup(section, [, entries]) {
  const list = section.querySelector("ul");
  if (list) {
    keyed(
      list,
      entries,
      (one) => one.name,
      (one) =>
        h(
          "li",
          {},
          h(
            "a",
            { href: `#/tools/${one.kind}/${one.server}/${encodeURIComponent(one.name)}`, title: one.name },
            filledIn(one.name),
          ),
        ),
    );
  }
  return section;
}

/** Move among the links by arrows. @param {HTMLElement} within @param {KeyboardEvent} event */
function walk(within, event) {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by) return;
  const links = [...within.querySelectorAll("a")];
  const at = links.indexOf(/** @type {HTMLAnchorElement} */ (document.activeElement));
  const next = links[at + by];
  if (!next) return;
  event.preventDefault();
  next.focus();
}

/** What stands above every panel. @param {string} name @param {string} [description] @param {string | null} [policy] @param {...HTMLElement} badges */
function head(name, description = "", policy = null, ...badges) {
  return h(
    "header",
    { class: "tool-head" },
    h("div", { class: "tool-title" }, h("h2", {}, name), ...badges),
    ...description
      .split(/\n\s*\n/)
      .map((paragraph) => h("p", { class: "description" }, ...prose(paragraph.replace(/\s*\n\s*/g, " ")))),
    policy ? h("p", { class: "quiet policy" }, "Allowed by ", h("code", {}, policy)) : null,
  );
}

/** @param {ToolInfo} tool */
function toolPanel(tool) {
  const form = h("schema-form");
  const snippets = h("call-snippets");
  const runner = running(
    async (signal) => {
      form.clear();
      const path = `/console/tools/${encodeURIComponent(tool.server)}/${encodeURIComponent(tool.name)}`;
      return ask("POST", path, form.value, signal);
    },
    (field, message) => form.tell(field, message),
  );
  const element = h(
    "form",
    {
      class: "card tool",
      novalidate: true,
      onsubmit: (/** @type {Event} */ event) => void runner.run(event),
      onkeydown: runByKeys,
    },
    head(tool.name, tool.description, tool.policy, badge(tool)),
    form,
    h("div", { class: "run" }, runner.button, runner.stop, h("span", { class: "quiet" }, "or Ctrl+Enter")),
    runner.result,
    snippets,
    h(
      "details",
      { class: "schema" },
      h("summary", {}, "Schema of the arguments"),
      h("pre", { tabindex: "0", "aria-label": "Schema of the arguments" }, JSON.stringify(tool.input_schema, null, 2)),
    ),
  );
  form.addEventListener("changed", update);
  form.connectedCallback();
  form.build(tool.input_schema, tool.example);
  snippets.connectedCallback();
  update();
  return element;

  function update() {
    try {
      snippets.show({ server: tool.server, tool: tool.name, value: form.value });
    } catch (error) {
      if (!(error instanceof NotFilled)) throw error; // what is half typed has no call yet: the last one stays
    }
  }

  /** @param {KeyboardEvent} event */
  function runByKeys(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void runner.run(event);
  }
}

/** @param {ToolInfo} tool */
function badge({ read_only: onlyReads, destructive }) {
  const words = onlyReads ? "only reads" : destructive ? "may delete or overwrite" : "changes data";
  return h("span", { class: `badge ${onlyReads ? "good" : destructive ? "bad" : "warn"}` }, words);
}

/** @param {ResourceInfo} resource */
function resourcePanel(resource) {
  const written = resource.name;
  const uri = h("input", {
    type: "text",
    id: `uri-${written}`,
    value: filledIn(written),
    autocomplete: "off",
    spellcheck: "false",
    class: "code",
  });
  const runner = running((signal) =>
    ask("GET", `/console/resources/read?uri=${encodeURIComponent(uri.value.trim())}`, undefined, signal),
  );
  runner.button.textContent = "Read";
  return h(
    "form",
    { class: "card tool", onsubmit: (/** @type {Event} */ event) => void runner.run(event) },
    head(written, resource.description, resource.policy, h("span", { class: "badge good" }, "resource")),
    h(
      "div",
      { class: "field" },
      h("label", { for: uri.id }, h("code", {}, "uri")),
      uri,
      h("span", { class: "quiet hint" }, /\{/.test(uri.value) ? "Put a value where the braces are." : ""),
    ),
    h("div", { class: "run" }, runner.button, runner.stop),
    runner.result,
  );
}

/** @param {PromptInfo} prompt */
function promptPanel(prompt) {
  const rows = (prompt.arguments ?? []).map(({ name, description, required }) =>
    h("li", {}, h("code", {}, name), required ? " (needed) " : " ", description ?? ""),
  );
  return h(
    "div",
    { class: "card tool" },
    head(prompt.name, prompt.description, prompt.policy, h("span", { class: "badge good" }, "prompt")),
    rows.length ? h("ul", {}, ...rows) : h("p", { class: "quiet" }, "It takes no arguments."),
    h(
      "p",
      { class: "quiet" },
      "Clients of MCP offer prompts to people; ",
      h("code", {}, "prompts/get"),
      " fills this one in.",
    ),
  );
}

/** A template without what may be left out. @param {string} template */
function filledIn(template) {
  return template.replace(/\{[?&#][^}]*\}/g, "");
}

/**
 * Make what runs something and shows what came of it.
 *
 * @param {(signal: AbortSignal) => Promise<Response>} call
 * @param {(field: string, message: string) => void} [tell]
 */
function running(call, tell) {
  const result = h("call-result");
  const start = h("button", { type: "submit", class: "primary" }, "Run");
  const stop = h("button", { type: "button", class: "danger", hidden: true }, "Cancel");
  /** @type {AbortController | null} */
  let current = null;
  stop.addEventListener("click", () => current?.abort());

  /** @param {Event} event */
  async function run(event) {
    event.preventDefault();
    if (current) return;
    current = new AbortController();
    start.disabled = true;
    stop.hidden = false;
    result.wait("Running …");
    const began = performance.now();
    try {
      const response = await call(current.signal);
      const text = await response.text();
      result.show({
        text,
        type: response.headers.get("content-type") ?? "",
        ms: performance.now() - began,
        requestId: response.headers.get("x-request-id") ?? "",
      });
    } catch (error) {
      if (error instanceof NotFilled) {
        result.replaceChildren();
        tell?.(error.field, error.reason);
      } else if (current.signal.aborted) {
        result.wait("Cancelled: the gateway stops what it did for it.");
      } else {
        const problem = asProblem(error);
        for (const { field, message } of problem.errors) tell?.(field, message);
        result.fail(problem);
      }
    } finally {
      current = null;
      result.scrollIntoView({ block: "nearest" });
      start.disabled = false;
      stop.hidden = true;
    }
  }

  return { run, result, button: start, stop };
}

customElements.define("tools-page", ToolsPage);
