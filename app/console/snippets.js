// <call-snippets>: the same call as it is made elsewhere: curl, the Python client, a message of MCP.

import { root } from "./api.js";
import { button, copyButton, h, hWith, say } from "./dom.js";
import { stream } from "./events.js";
import { numberAsWritten } from "./json.js";
import { isSignedIn } from "./session.js";

const WRITERS = /** @type {Record<string, (made: MadeCall) => string>} */ ({ curl, Python: python, MCP: mcp });

export class CallSnippets extends HTMLElement {
  #chosen = "curl";
  /** @type {MadeCall | null} */
  #made = null;
  #text = hWith("pre", { tabindex: "0", "aria-label": "The same call elsewhere" });
  #tabs = Object.keys(WRITERS).map((name) => button(name, () => this.#choose(name), { class: "small" }));

  connectedCallback() {
    if (this.firstChild) return;
    this.append(
      h(
        "div.form-head",
        h("h3", "The same call elsewhere"),
        h("span.joined", ...this.#tabs),
        copyButton(() => this.#text.textContent ?? ""),
      ),
      this.#text,
    );
    this.#choose(this.#chosen);
  }

  /** @param {MadeCall} made */
  show(made) {
    this.#made = made;
    const write = WRITERS[this.#chosen];
    if (write) say(this.#text, write(made));
  }

  /** @param {string} name */
  #choose(name) {
    this.#chosen = name;
    for (const tab of this.#tabs) tab.setAttribute("aria-pressed", String(tab.textContent === name));
    if (this.#made) this.show(this.#made);
  }
}

const base = () => stream.hello?.url ?? location.origin + root;

/** @param {MadeCall} made */
export function curl({ server, tool, value }) {
  const key = isSignedIn() ? `  -H "authorization: Bearer $SWITCHBOARD_TOKEN" \\\n` : "";
  return `curl -s ${base()}/mcp/${server}/tools/${tool} \\\n${key}  -H 'content-type: application/json' -d ${quoted(JSON.stringify(value))}`;
}

/** @param {MadeCall} made */
export function python({ server, tool, value }) {
  const key = isSignedIn() ? `, token=os.environ["SWITCHBOARD_TOKEN"]` : "";
  const lines = [
    "import asyncio",
    ...(key ? ["import os"] : []),
    "",
    "from agents.client import MCPClient",
    "",
    "",
    "async def main() -> None:",
    `    async with MCPClient("${base()}"${key}) as client:`,
    `        result = await client.call_tool("${server}", "${tool}", ${literal(value, 8)})`,
    "        print(result)",
    "",
    "",
    "asyncio.run(main())",
  ];
  return lines.join("\n");
}

/** @param {MadeCall} made */
export function mcp({ server, tool, value }) {
  const message = { jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: tool, arguments: value } };
  return `POST ${base()}/mcp/${server}\naccept: application/json, text/event-stream\ncontent-type: application/json\n\n${JSON.stringify(message, null, 2)}`;
}

/** A text as a shell takes it. @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", `'"'"'`)}'`;
}

/** A value as Python writes it. @param {unknown} value @param {number} indent @returns {string} */
function literal(value, indent) {
  if (value === null || value === undefined) return "None";
  const written = numberAsWritten(value);
  if (written !== null) return written;
  if (value === true) return "True";
  if (value === false) return "False";
  const inner = " ".repeat(indent + 4);
  const broken = JSON.stringify(value).length > 60;
  const join = (/** @type {string[]} */ parts) =>
    broken ? `\n${parts.map((part) => `${inner}${part},\n`).join("")}${" ".repeat(indent)}` : parts.join(", ");
  if (Array.isArray(value)) return `[${join(value.map((item) => literal(item, indent + 4)))}]`;
  if (typeof value === "object")
    return `{${join(Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${literal(item, indent + 4)}`))}}`;
  return JSON.stringify(value); // a JSON text of a string is one of Python's, too
}

customElements.define("call-snippets", CallSnippets);
