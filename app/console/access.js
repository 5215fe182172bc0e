// <access-page>: roles, keys made and revoked, and what the policy decides for a caller and a call.

import { ask, asProblem, read } from "./api.js";
import { badge, button, copyButton, dotted, field, h, hWith, notice, plainTable, prose, say } from "./dom.js";
import { outcomeInWords, plural, since, wholeTime } from "./format.js";

export class AccessPage extends HTMLElement {
  #told = h("p.quiet");
  #keys = hWith("section.card", { "aria-label": "Keys" });
  #made = hWith("div", { role: "status" });
  #roles = hWith("section.card", { "aria-label": "Roles", hidden: true });
  #explain = hWith("section.card", { "aria-label": "The policy explained", hidden: true });

  connectedCallback() {
    if (!this.firstChild)
      this.append(
        h("header.page-head", h("h1", "Access"), this.#told),
        h("div.stack", this.#made, this.#keys, this.#explain, this.#roles),
      );
    if (!this.#keys.firstChild) this.#keys.append(h("p.quiet.none", "Asking …"));
    void this.#load();
  }

  disconnectedCallback() {
    this.#made.replaceChildren(); // a secret is shown once
  }

  async #load() {
    try {
      const told = /** @type {Access} */ (await read("/console/access"));
      say(
        this.#told,
        told.asked
          ? "Callers show a key."
          : "Nobody is asked for a key here: switchboard serve asks where switchboard.toml has [auth], switchboard dev never.",
      );
      this.#showKeys(told);
      this.#roles.replaceChildren(h("h2", "Roles"), ...told.roles.map(roleRow));
      this.#roles.hidden = this.#explain.hidden = !told.roles.length;
      if (!this.#explain.firstChild) this.#explain.append(...explaining(told));
    } catch (error) {
      this.#keys.replaceChildren(notice("This can't be shown", asProblem(error).message));
    }
  }

  /** @param {Access} told */
  #showKeys({ keys, total, reason, roles, may_change: mayAct }) {
    const heading = h("h2", "Keys");
    if (!keys) {
      this.#keys.replaceChildren(heading, notice("Keys can't be listed", reason ?? ""));
      return;
    }
    const rows = keys.map((key) => [
      h("code", key.id),
      key.roles.join(", "),
      h("span", ...dotted([key.customer && `customer ${key.customer}`, key.tenant && `tenant ${key.tenant}`])),
      hWith("span", { title: wholeTime(key.created) }, since(key.created)),
      key.ends === null ? "never" : hWith("span", { title: wholeTime(key.ends) }, since(key.ends)),
      badge(key.state === "good", key.state),
      mayAct && key.state === "good" ? this.#revokeButton(key) : null,
    ]);
    const table = plainTable(["Key", "Roles", "Bound to", "Made", "Ends", "State", mayAct ? "Revoke" : ""], rows);
    table.classList.add("keys");
    const more = total !== null && total > keys.length ? `The newest ${keys.length} of ${total}.` : "";
    this.#keys.replaceChildren(
      heading,
      rows.length
        ? hWith("div.wide", { tabindex: "0", role: "region", "aria-label": "The keys" }, table)
        : h("p.quiet.none", "There is no key yet."),
      h("p.quiet", more),
      mayAct ? this.#form(roles) : h("p.quiet", "To make and revoke keys takes the scope console:act, too."),
    );
  }

  /** It asks twice, since what it does can't be undone. @param {AccessKey} key */
  #revokeButton(key) {
    let isSure = false;
    const confirm = async () => {
      if (!isSure) {
        isSure = true;
        say(revoke, "Really revoke?");
        revoke.setAttribute("aria-label", `Really revoke ${key.id}?`);
        return;
      }
      revoke.disabled = true;
      try {
        await ask("POST", `/console/keys/${key.id}/revoke`);
        await this.#load();
      } catch (error) {
        this.#made.replaceChildren(h("p.failure", ...prose(asProblem(error).message)));
        revoke.disabled = false;
      }
    };
    const revoke = button("Revoke", confirm, { class: "small danger", "aria-label": `Revoke ${key.id}` });
    return revoke;
  }

  /** @param {AccessRole[]} roles */
  #form(roles) {
    const chosen = roles.map(({ name }) => hWith("input", { type: "checkbox", value: name, id: `role-${name}` }));
    const customer = hWith("input", { id: "key-customer", maxlength: 64, autocomplete: "off", placeholder: "any" });
    const tenant = hWith("input", { id: "key-tenant", maxlength: 64, autocomplete: "off", placeholder: "none" });
    const days = hWith("input", { type: "number", id: "key-days", min: 1, max: 3650, value: 90 });
    const wrong = hWith("p.wrong", { role: "alert" });
    const submit = hWith("button", { type: "submit", class: "primary" }, "Make a key");
    /** @param {Event} event */
    const make = async (event) => {
      event.preventDefault();
      wrong.replaceChildren();
      const body = {
        roles: chosen.filter(({ checked }) => checked).map(({ value }) => value),
        customer: customer.value.trim() || null,
        tenant: tenant.value.trim() || null,
        days: days.value ? Number(days.value) : null,
      };
      if (!body.roles.length) {
        say(wrong, "Choose a role: it says what the key may do.");
        return;
      }
      submit.disabled = true;
      try {
        const { token, key } = await (await ask("POST", "/console/keys", body)).json();
        this.#made.replaceChildren(madeCard(token, key, () => this.#made.replaceChildren()));
        await this.#load();
        this.#made.scrollIntoView({ block: "nearest" });
      } catch (error) {
        wrong.replaceChildren(h("span", ...prose(asProblem(error).message)));
      } finally {
        submit.disabled = false;
      }
    };
    return h(
      "details.more",
      h("summary", "Make a key"),
      hWith(
        "form.make",
        { onsubmit: (/** @type {Event} */ event) => void make(event) },
        h(
          "fieldset",
          h("legend", "Roles"),
          ...chosen.map((input) => hWith("label", { for: input.id }, input, " ", input.value)),
        ),
        field("Customer", customer),
        field("Tenant", tenant),
        field("Ends after days", days),
        submit,
        wrong,
      ),
    );
  }
}

/** @param {string} token @param {AccessKey} key @param {() => void} close */
function madeCard(token, key, close) {
  return h(
    "section.card.made",
    h("h2", `Key ${key.id} is made`),
    h("p", "Copy it now: it is not shown again, and only its hash is kept."),
    h(
      "p.secret",
      h("code", token),
      copyButton(() => token),
      button("Hide it", close, { class: "small" }),
    ),
  );
}

/** @param {AccessRole} role */
function roleRow(role) {
  const list = (/** @type {string} */ name, /** @type {string[]} */ entries) =>
    entries.length ? [h("dt", name), h("dd", ...entries.flatMap((entry) => [h("code", entry), " "]))] : [];
  const rules = Object.entries(role.rules).map(([tool, each]) => `${tool} ${JSON.stringify(each)}`);
  const limits = Object.entries(role.limits ?? {}).map(([what, rate]) => `${what} ${rate}`);
  return h(
    "details.config",
    h(
      "summary",
      role.name,
      h(
        "span.quiet",
        ` ${plural((role.allow ?? []).length, "entry", "entries")}${role.bound ? `, bound to a ${role.bound}` : ""}`,
      ),
    ),
    h(
      "dl.facts",
      ...list("May", role.allow ?? []),
      ...list("May not", role.deny ?? []),
      ...list("Limit", [...(role.limit ? [role.limit] : []), ...limits]),
      ...list("Rules", rules),
      h("dt", "Written in"),
      h("dd", h("code", role.place)),
    ),
  );
}

/** @param {Access} told @returns {Node[]} */
function explaining({ roles, keys }) {
  const names = roles.map(({ name }) => hWith("option", { value: name }, `role ${name}`));
  const ids = (keys ?? []).map(({ id }) => hWith("option", { value: `key:${id}` }, `key ${id}`));
  const who = hWith("select", { id: "explain-who" }, ...names, ...ids);
  const customer = hWith("input", { id: "explain-customer", maxlength: 64, autocomplete: "off", placeholder: "none" });
  const asked = { value: "database:query_database", required: true, autocomplete: "off" };
  const what = hWith("input.code", { id: "explain-what", ...asked });
  const given = hWith("input.code", { id: "explain-arguments", placeholder: "JSON, or nothing", autocomplete: "off" });
  const answer = hWith("div.explained", { role: "status" });
  // What a key is bound to is kept with it.
  who.addEventListener("change", () => (customer.disabled = who.value.startsWith("key:")));
  /** @param {Event} event */
  async function find(event) {
    event.preventDefault();
    try {
      const body = {
        what: what.value.trim(),
        ...(who.value.startsWith("key:")
          ? { key: who.value.slice(4) }
          : { roles: [who.value], customer: customer.value.trim() || null }),
        arguments: given.value.trim() ? JSON.parse(given.value) : null,
      };
      const told = await (await ask("POST", "/console/explain", body)).json();
      answer.replaceChildren(
        h(
          "p",
          badge(told.allowed, told.allowed ? "allowed" : outcomeInWords(told.refusal.code)),
          " ",
          ...prose(told.refusal?.detail ?? ""),
        ),
        h("ul", ...told.lines.map((/** @type {string} */ line) => h("li", ...prose(line)))),
      );
    } catch (error) {
      const message =
        error instanceof SyntaxError ? `The arguments are no JSON: ${error.message}` : asProblem(error).message;
      answer.replaceChildren(h("p.wrong", ...prose(message)));
    }
  }
  return [
    h("h2", "May somebody do something?"),
    hWith(
      "form.make",
      { onsubmit: (/** @type {Event} */ event) => void find(event) },
      field("Who", who),
      field("Bound to customer", customer),
      field("Tool, resource or scope", what),
      field("With arguments", given),
      hWith("button", { type: "submit" }, "Explain"),
    ),
    answer,
  ];
}

customElements.define("access-page", AccessPage);
