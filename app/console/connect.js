// <connect-page>: how clients are told of this gateway, and the guides.

import { asProblem, read, root } from "./api.js";
import { copyButton, h, hWith, notice } from "./dom.js";

export class ConnectPage extends HTMLElement {
  #content = h("div");

  connectedCallback() {
    document.title = "Connect · Switchboard";
    if (!this.firstChild)
      this.append(
        h(
          "header.page-head",
          h("h1", "Connect"),
          h("p.quiet", "One gateway between AI support agents and the systems they need."),
        ),
        this.#content,
      );
    if (!this.#content.firstChild) void this.#load();
  }

  async #load() {
    try {
      const told = /** @type {Connecting} */ (await read("/console/connect"));
      this.#content.replaceChildren(...sections(told));
    } catch (error) {
      this.#content.replaceChildren(notice("How to connect can't be shown", asProblem(error).message));
    }
  }
}

/** @param {Connecting} told */
function sections(told) {
  const ways = /** @type {[string, string][]} */ ([
    ["MCP, Streamable HTTP", `${told.url}/mcp`],
    ["MCP over WebSocket", `${told.websocket_url}/mcp/ws`],
    ["REST", `${told.url}/mcp/<server>/tools/<tool>`],
  ]);
  const places = /** @type {[string, string][]} */ ([
    ["/docs", "Try the REST API"],
    ["/redoc", "Reference"],
    ["/mcp", "Servers as JSON"],
    ["/ready", "Readiness"],
  ]);
  return [
    h(
      "section.card",
      h("h2", "Addresses"),
      h(
        "dl.facts.addresses",
        ...ways.flatMap(([name, address]) => [
          h("dt", name),
          h(
            "dd",
            h("code", address),
            copyButton(() => address),
          ),
        ]),
      ),
    ),
    h("section.card", h("h2", "Clients"), ...told.configs.map(config)),
    hWith(
      "nav.card.links",
      { "aria-label": "API" },
      h("h2", "API"),
      h("ul", ...places.map(([path, title]) => h("li", hWith("a", { href: root + path }, title)))),
    ),
    hWith(
      "nav.card.links",
      { "aria-label": "Guides" },
      h("h2", "Guides"),
      h(
        "ul",
        ...told.guides.map(({ name, title }) => h("li", hWith("a", { href: `${root}/console/guides/${name}` }, title))),
      ),
    ),
  ];
}

/** @param {Config} about @param {number} index */
function config({ client, title, place, text }, index) {
  const id = `config-${client}`;
  return hWith(
    "details",
    { open: index === 0, class: "config" },
    h("summary", title),
    h(
      "div.form-head",
      h("p.quiet", place),
      copyButton(() => text),
    ),
    hWith("pre", { id, tabindex: "0", "aria-label": `For ${title}` }, text),
  );
}

customElements.define("connect-page", ConnectPage);
