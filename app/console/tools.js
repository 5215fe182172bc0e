// <tools-page>: every tool, resource and prompt that the viewer may use, to be tried.

import "./result.js";
import "./schema_form.js";
import "./snippets.js";
import { ask, asProblem, read } from "./api.js";
import { button, h, hWith, keyed, notice, prose, searchInput } from "./dom.js";
import { NotFilled } from "./schema_form.js";

export class ToolsPage extends HTMLElement {
  /** @type {Offer[] | null} */
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
          hWith("nav.card.tool-list", { "aria-label": "Tools and resources" }, this.#search, this.#groups),
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
    /** @type {Map<string, Offer[]>} */
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
        h("p.quiet.none", this.#entries?.length ? "Nothing is called so." : "Your role allows no tool."),
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
        : this.#entries.length
          ? offered(this.#entries)
          : notice("No tool is for you", ...prose("`switchboard policy explain` says which line would allow one."));
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
    this.#opened.replaceChildren(hWith("a.back", { href: "#/tools" }, "All tools"), panel);
    if (matchMedia("(max-width: 52rem)").matches) scrollTo(0, 0);
  }
}

/** What there is to choose from, in the words that it has for itself. @param {Offer[]} entries */
function offered(entries) {
  const doers = entries.filter(({ kind }) => kind !== "resource");
  const shown = doers.length ? doers : entries;
  const servers = [...new Set(shown.map(({ server }) => server))];
  const rows = (/** @type {string} */ server) => shown.filter((one) => one.server === server).map(row);
  return h(
    "div.stack",
    ...servers.map((server) => h("section.card", h("h2", server), h("ul.offered", ...rows(server)))),
  );
}

/** @param {Offer} entry */
function row(entry) {
  const { kind, about } = entry;
  const [gist = ""] = (about.description ?? "").split(/(?<=[.!?])\s|\n\s*\n/);
  return h("li", link(entry), h("span", ...prose(gist.replace(/\s+/g, " "))), kind === "tool" ? doing(about) : null);
}

/** What becomes of things by a tool, in a word. @param {{read_only: boolean, destructive?: boolean}} tool */
function doing({ read_only: onlyReads, destructive }) {
  const words = onlyReads ? "only reads" : destructive ? "may delete or overwrite" : "changes data";
  return hWith("span", { class: `badge ${onlyReads ? "good" : destructive ? "bad" : "warn"}` }, words);
}

/** @param {Offer} entry */
const link = ({ kind, server, name }) =>
  hWith("a", { href: `#/tools/${kind}/${server}/${encodeURIComponent(name)}`, title: name }, filledIn(name));

/** @param {Offer["kind"]} kind @param {{server: string, name: string, description?: string}} about @param {string} [title] @returns {Offer} */
function entry(kind, about, title = "") {
  const words = [kind, about.server, about.name, title, about.description].join(" ").toLowerCase();
  return { kind, server: about.server, name: about.name, words, about };
}

/** @param {HTMLElement} section @param {[string, Offer[]]} group */
function updateGroup(section, [, entries]) {
  const list = section.querySelector("ul");
  if (list) {
    keyed(
      list,
      entries,
      (one) => one.name,
      (one) => {
        const named = link(one);
        named.dataset.entry = `${one.kind}/${one.server}/${one.name}`;
        return h("li", named);
      },
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

/** What stands above every panel. @param {Offered} about @param {HTMLElement} kind */
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
 * @param {Offered} about @param {HTMLElement} kind
 * @param {Schema} schema @param {Record<string, unknown> | null} example
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
  const element = hWith(
    "form.card.tool",
    { novalidate: true, onsubmit: runner.run, onkeydown: runByKeys },
    head(about, kind),
    form,
    h("div.run", runner.button, runner.stop, h("span.quiet.only-wide", "or Ctrl+Enter")),
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
  const { server, name, input_schema: schema } = tool;
  const snippets = h("call-snippets");
  snippets.connectedCallback();
  const path = `/console/tools/${encodeURIComponent(server)}/${encodeURIComponent(name)}`;
  const title = "Schema of the arguments";
  return formPanel(
    tool,
    doing(tool),
    schema,
    tool.example,
    (value, signal) => ask("POST", path, value, signal),
    (value) => snippets.show({ server, tool: name, value }),
    snippets,
    h(
      "details.schema",
      h("summary", title),
      hWith("pre", { tabindex: "0", "aria-label": title }, JSON.stringify(schema, null, 2)),
    ),
  );
}

/** @param {ResourceInfo} resource */
function resourcePanel(resource) {
  const written = resource.template;
  const uri = hWith("input.code", {
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
  return hWith(
    "form.card.tool",
    { onsubmit: runner.run },
    head({ ...resource, name: written }, h("span.badge.good", "resource")),
    h(
      "div.field",
      hWith("label", { for: uri.id }, h("code", "uri")),
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
  const start = hWith("button", { type: "submit", class: "primary" }, "Run");
  const stop = hWith("button", { type: "button", class: "danger", hidden: true }, "Cancel");
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
