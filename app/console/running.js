// <running-calls>: what runs at this moment, how long already, and a button that ends it.

import { ask, asProblem } from "./api.js";
import { button, dotted, h, hWith, keyed, say } from "./dom.js";
import { stream } from "./events.js";
import { age, wholeTime } from "./format.js";

export class RunningCalls extends HTMLElement {
  #list = h("ul.running");
  #none = h("p.quiet.none");
  #shown = new AbortController();

  connectedCallback() {
    if (!this.firstChild) this.append(this.#list, this.#none);
    const { signal } = (this.#shown = new AbortController());
    stream.addEventListener("snapshot", () => this.#show(), { signal });
    stream.addEventListener("tick", () => this.#count(), { signal });
    this.#show();
  }

  disconnectedCallback() {
    this.#shown.abort();
  }

  #show() {
    const running = [...(stream.snapshot?.running ?? [])].sort((one, other) => one.started - other.started);
    keyed(this.#list, running, (call) => call.id, makeRow, updateRow);
    this.#none.hidden = running.length > 0;
    // Its place is kept, so that what is below stays where it is.
    say(this.#none, stream.snapshot ? "Nothing runs longer than a moment." : "\u00a0");
  }

  /** Go on with what is there while its place is kept. */
  #count() {
    for (const row of this.#list.children) {
      const call = stream.snapshot?.running.find(({ id }) => id === row.getAttribute("data-key"));
      if (call) updateRow(row, call);
    }
  }
}

/** @param {RunningCall} call */
function makeRow(call) {
  const row = h(
    "li.running-call",
    hWith("span.running-age.number", { title: `since ${wholeTime(call.started)}` }),
    h(
      "span.running-what",
      hWith("a", { href: `#/calls?call=${encodeURIComponent(call.id)}` }, call.operation),
      h("span.quiet", ...dotted([call.server, call.face, call.client, call.principal, call.customer])),
    ),
  );
  updateRow(row, call);
  return row;
}

/** @param {Element} row @param {RunningCall} call */
function updateRow(row, call) {
  const shown = row.querySelector(".running-age");
  if (shown) say(shown, age(stream.now() - call.started));
  // What has only just begun can't be cancelled yet.
  if (call.can_cancel && stream.hello?.may.act && !row.querySelector("button")) row.append(cancelButton(call));
}

/** Make a button that ends a running call, and says what became of it. @param {{id: string, operation: string}} call */
export function cancelButton(call) {
  const made = button("Cancel", cancel, { class: "small danger", "aria-label": `Cancel ${call.operation}` });
  async function cancel() {
    made.disabled = true;
    say(made, "Cancelling …");
    try {
      await ask("POST", `/console/calls/${encodeURIComponent(call.id)}/cancel`);
      say(made, "Cancelled");
    } catch (error) {
      const problem = asProblem(error);
      say(made, problem.status === 404 ? "Has ended" : "Not cancelled");
      made.title = problem.message;
      made.disabled = problem.status === 404;
    }
  }
  return made;
}

customElements.define("running-calls", RunningCalls);
