// <tools-page>: every tool, resource and prompt that the viewer may use, to be tried.

import "./result.js";
import "./schema_form.js";
import "./snippets.js";
import { ask, asProblem, read } from "./api.js";
import { button, h, keyed, notice, prose, searchInput } from "./dom.js";
import { NotFilled } from "./schema_form.js";

/** @typedef {import("./api.js").ToolInfo} ToolInfo */
/** @typedef {import("./api.js").ResourceInfo} ResourceInfo */
/** @typedef {import("./api.js").PromptInfo} PromptInfo */
/** @typedef {{kind: "tool" | "resource" | "prompt", server: string, name: string, words: string, about: any}} Entry */

export class ToolsPage extends HTMLElement {
  /** @type {Entry[] | null} */
  #entries = null;
  /** @type {string[]} */
  #wanted = [];
  #search = searchInput("Find a tool, a resource or a prompt", () => this.#list(), "Find …");
  #groups = h("div.groups");
  #opened = h("div.opened");
  /** @type {Map<string, HTMLElement>} what was opened keeps what was typed into it */
  #kept = new Map();

  connectedCallback() {
    if (!this.firstChild) {
      this.append(
        h("header.page-head", h("h1", "Tools")),
        h(
          "div.tools",
          h("nav.card.tool-list", { "aria-label": "Tools and resources" }, this.#search, this.#groups),
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
    this.#opened.replaceChildren(h("p.quiet", "Asking …"));
    try {
      /** @type {{tools: ToolInfo[], resources: ResourceInfo[], prompting: string[]}} */
      const { tools, resources, prompting } = await read("/console/tools");
      const prompts = (await Promise.all(prompting.map(promptsOf))).flat();
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
      (group) => updateGroup(h("section", h("h2", group[0]), h("ul")), group),
      updateGroup,
    );
    if (!groups.size)
      this.#groups.replaceChildren(
        h(
          "p.quiet.none",
          this.#entries?.length
            ? "Nothing is called so."
            : "Your role allows no tool. `switchboard policy explain` says why.",
        ),
      );
    this.#mark();
  }

  #mark() {
    for (const link of this.#groups.querySelectorAll("a")) {
      if (link.dataset.entry === this.#wanted.join("/")) link.setAttribute("aria-current", "true");
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
    this.#opened.replaceChildren(h("a.back", { href: "#/tools" }, "All tools"), panel);
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
          h(
            "a",
            {
              href: `#/tools/${one.kind}/${one.server}/${encodeURIComponent(one.name)}`,
              title: one.name,
              "data-entry": `${one.kind}/${one.server}/${one.name}`,
            },
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

/** What stands above every panel. @param {import("./api.js").Offered} about @param {HTMLElement} kind */
function head({ name, description = "", policy }, kind) {
  return h(
    "header.tool-head",
    h("div.tool-title", h("h2", name), kind),
    ...description
      .split(/\n\s*\n/)
      .map((paragraph) => h("p.description", ...prose(paragraph.replace(/\s*\n\s*/g, " ")))),
    policy ? h("p.quiet.policy", "Allowed by ", h("code", policy)) : null,
  );
}

/**
 * Make the panel of what has a form: what it says of itself, the arguments, what came of it.
 *
 * @param {import("./api.js").Offered} about @param {HTMLElement} kind
 * @param {import("./api.js").Schema} schema @param {Record<string, unknown> | null} example
 * @param {(value: Record<string, unknown>, signal: AbortSignal) => Promise<Response>} call
 * @param {(value: Record<string, unknown>) => void} changed told of each value that could be called with
 * @param {...HTMLElement} below
 */
function formPanel(about, kind, schema, example, call, changed, ...below) {
  const form = h("schema-form");
  const runner = running(
    async (signal) => {
      form.clear();
      return call(form.value, signal);
    },
    (field, message) => form.tell(field, message),
  );
  const element = h(
    "form.card.tool",
    { novalidate: true, onsubmit: runner.run, onkeydown: runByKeys },
    head(about, kind),
    form,
    h("div.run", runner.button, runner.stop, h("span.quiet", "or Ctrl+Enter")),
    runner.result,
    ...below,
  );
  form.addEventListener("changed", update);
  form.connectedCallback();
  form.build(schema, example);
  update();
  return element;

  function update() {
    try {
      changed(form.value);
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
function toolPanel(tool) {
  const { server, name, read_only: onlyReads, destructive, input_schema: schema } = tool;
  const words = onlyReads ? "only reads" : destructive ? "may delete or overwrite" : "changes data";
  const kind = h("span", { class: `badge ${onlyReads ? "good" : destructive ? "bad" : "warn"}` }, words);
  const snippets = h("call-snippets");
  snippets.connectedCallback();
  const path = `/console/tools/${encodeURIComponent(server)}/${encodeURIComponent(name)}`;
  const title = "Schema of the arguments";
  return formPanel(
    tool,
    kind,
    schema,
    tool.example,
    (value, signal) => ask("POST", path, value, signal),
    (value) => snippets.show({ server, tool: name, value }),
    snippets,
    h(
      "details.schema",
      h("summary", title),
      h("pre", { tabindex: "0", "aria-label": title }, JSON.stringify(schema, null, 2)),
    ),
  );
}

/** @param {ResourceInfo} resource */
function resourcePanel(resource) {
  const written = resource.template;
  const uri = h("input.code", {
    type: "text",
    id: `uri-${written}`,
    value: filledIn(written),
    autocomplete: "off",
    spellcheck: "false",
  });
  const runner = running((signal) =>
    ask("GET", `/console/resources/read?uri=${encodeURIComponent(uri.value.trim())}`, undefined, signal),
  );
  runner.button.textContent = "Read";
  return h(
    "form.card.tool",
    { onsubmit: runner.run },
    head({ ...resource, name: written }, h("span.badge.good", "resource")),
    h(
      "div.field",
      h("label", { for: uri.id }, h("code", "uri")),
      uri,
      h("span.quiet.hint", /\{/.test(uri.value) ? "Put a value where the braces are." : ""),
    ),
    h("div.run", runner.button, runner.stop),
    runner.result,
  );
}

/** Ask a server for its prompts; one that fails does not keep the others from being shown. @param {string} server */
async function promptsOf(server) {
  try {
    return /** @type {PromptInfo[]} */ ((await read(`/console/prompts/${encodeURIComponent(server)}`)).prompts);
  } catch (error) {
    const description = `The prompts of this server can't be listed: ${asProblem(error).message}`;
    return [{ server, name: "not listed", description, failed: true }];
  }
}

/** @param {PromptInfo} prompt */
function promptPanel(prompt) {
  const kind = h("span.badge.good", "prompt");
  const given = prompt.arguments ?? [];
  if (prompt.failed) return h("div.card.tool", head(prompt, kind));
  const properties = given.map(({ name, description }) => [name, { type: "string", description }]);
  const required = given.flatMap(({ name, required }) => (required ? [name] : []));
  const schema = { type: "object", properties: Object.fromEntries(properties), required };
  const path = `/console/prompts/${encodeURIComponent(prompt.server)}`;
  return formPanel(
    prompt,
    kind,
    schema,
    null,
    (value, signal) => ask("POST", path, { name: prompt.name, arguments: value }, signal),
    () => {},
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
