// <schema-form>: a form made from a JSON Schema, whose value is the arguments object. What no form fits is typed as JSON.

import { button, h, hWith, prose, say } from "./dom.js";
import { numberAsWritten, parseExactly } from "./json.js";

/**
 * One input of the form, of whatever depth.
 *
 * @typedef {object} Field
 * @property {HTMLElement} element
 * @property {() => unknown} read undefined where nothing was given; throws `NotFilled` where it can't be read
 * @property {(value: unknown) => void} fill
 * @property {(message: string) => void} [tell]
 */

/** What a field holds that is no value of its schema, in words. */
export class NotFilled extends Error {
  /** @param {string} field @param {string} message */
  constructor(field, message) {
    super(`${field}: ${message}`);
    this.field = field;
    this.reason = message;
  }
}

/** Schemas within schemas that get inputs of their own; deeper ones are typed as JSON. */
const DEEPEST = 5;
const LARGEST_FILE = 3_000_000;
/** Names of texts that are usually longer than a line. */
const LONG = /query|sql|content|message|text|response|body|payload|description|prompt|comment|reason|note/;
/** What a property named `encoding` speaks of, where there is one of these. */
const ENCODED = ["content", "message", "value", "body", "data"];

const INPUTS = "input, textarea, select";

let made = 0;

export class SchemaForm extends HTMLElement {
  /** @type {Field | null} */
  #root = null;
  /** @type {Schema} */
  #schema = {};
  #asJson = false;
  #fields = h("div.fields");
  #text = hWith("textarea.code.whole-json", {
    "aria-label": "The arguments as JSON",
    spellcheck: "false",
    hidden: true,
  });
  #switch = button("Edit as JSON", () => this.#turn(), { class: "small" });
  #wrong = hWith("p.wrong", { role: "alert" });

  connectedCallback() {
    if (this.firstChild) return;
    this.append(h("div.form-head", h("h3", "Arguments"), this.#switch), this.#fields, this.#text, this.#wrong);
    this.addEventListener("input", () => this.#changed());
    this.addEventListener("change", () => this.#changed());
  }

  /** @param {Schema} schema @param {Record<string, unknown> | null} example */
  build(schema, example) {
    this.#schema = schema;
    this.#fill(example ?? {});
    this.#show(false);
  }

  /** @param {Record<string, unknown>} value */
  #fill(value) {
    const place = { whole: this.#schema, depth: 0, first: Object.keys(value) };
    this.#root = objectField(resolved(this.#schema, this.#schema), "", place);
    this.#root.fill(value);
    this.#fields.replaceChildren(this.#root.element);
  }

  /** What the form holds now. @returns {Record<string, unknown>} @throws {NotFilled} */
  get value() {
    if (this.#asJson) return parsed(this.#text.value, "arguments");
    return /** @type {Record<string, unknown>} */ (this.#root?.read() ?? {});
  }

  /** Say what is wrong, at the field that it is about. @param {string} field @param {string} message */
  tell(field, message) {
    const name = field.split(/[.[]/)[0] ?? "";
    const slot = this.#asJson ? null : this.#fields.querySelector(`[data-field="${CSS.escape(name)}"]`);
    if (!slot) {
      this.#wrong.append(h("span", field ? `${field}: ${message}` : message), h("br"));
      return;
    }
    slot.closest("details")?.setAttribute("open", "");
    const said = slot.querySelector(".field-wrong");
    if (said)
      said.textContent = field === name ? message : `${field.slice(name.length).replace(/^\./, "")}: ${message}`;
    slot.querySelector(INPUTS)?.setAttribute("aria-invalid", "true");
  }

  /** Forget what was said to be wrong. */
  clear() {
    this.#wrong.replaceChildren();
    for (const said of this.#fields.querySelectorAll(".field-wrong")) said.textContent = "";
    for (const input of this.#fields.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  }

  #changed() {
    this.dispatchEvent(new Event("changed"));
  }

  #turn() {
    this.clear();
    try {
      const value = this.value;
      if (this.#asJson) {
        this.#fill(value);
      } else {
        this.#text.value = JSON.stringify(value, null, 2);
      }
      this.#show(!this.#asJson);
    } catch (error) {
      if (!(error instanceof NotFilled)) throw error;
      this.tell(error.field, error.reason);
    }
  }

  /** @param {boolean} asJson */
  #show(asJson) {
    this.#asJson = asJson;
    this.#fields.hidden = asJson;
    this.#text.hidden = !asJson;
    say(this.#switch, asJson ? "Edit as a form" : "Edit as JSON");
  }
}

/**
 * @typedef {object} Place
 * @property {Schema} whole what `$ref` leads into
 * @property {number} depth
 * @property {string[]} [first] properties that are shown although they may be left out
 * @property {Map<string, Field>} [siblings]
 * @property {boolean} [required]
 */

/** @param {Schema} given @param {string} name @param {Place} place @returns {Field} */
function fieldOf(given, name, place) {
  const schema = resolved(given, place.whole);
  const variants =
    schema.anyOf ??
    schema.oneOf ??
    (Array.isArray(schema.type) ? schema.type.map((/** @type {string} */ type) => ({ ...schema, type })) : null);
  if (place.depth > DEEPEST || schema.allOf) return jsonField(name);
  if (variants) return variantField(variants, name, place);
  if (schema.enum || "const" in schema) return choiceField(schema, schema.enum ?? [schema.const], place);
  switch (schema.type) {
    case "boolean":
      return "default" in schema && typeof schema.default === "boolean"
        ? checkField(schema)
        : choiceField(schema, [true, false], place);
    case "integer":
    case "number":
      return numberField(schema, name);
    case "string":
      return textField(schema, name, place);
    case "array":
      return rowsField(schema.items ?? {}, name, place);
    case "object":
      if (schema.properties) return objectField(schema, name, place);
      return typeof schema.additionalProperties === "object"
        ? rowsField(schema.additionalProperties, name, place, true)
        : jsonField(name);
    default:
      return jsonField(name);
  }
}

/** @param {Schema} schema @param {string} name @param {Place} place @returns {Field} */
function objectField(schema, name, place) {
  const required = new Set(/** @type {string[]} */ (schema.required ?? []));
  /** @type {Map<string, Field>} */
  const fields = new Map();
  const shown = hWith("div", { class: place.depth ? "nested" : "" });
  const rest = h("div.rest");
  const properties = Object.entries(/** @type {Record<string, Schema>} */ (schema.properties ?? {}));
  for (const [property, about] of properties) {
    const isRequired = required.has(property);
    const field = fieldOf(about, property, {
      whole: place.whole,
      depth: place.depth + 1,
      siblings: fields,
      required: isRequired,
    });
    const isShown = isRequired || (place.first ?? []).includes(property) || properties.length <= 3 || place.depth > 0;
    fields.set(property, field);
    (isShown ? shown : rest).append(labelled(property, resolved(about, place.whole), isRequired, field));
  }
  addFileButtons(schema, fields, place.whole);
  const element = h("div", shown);
  if (rest.childElementCount) {
    const count = rest.childElementCount;
    element.append(
      hWith(
        "details.more",
        { open: !shown.childElementCount },
        h("summary", `${count} more ${count === 1 ? "argument" : "arguments"}, which may be left out`),
        rest,
      ),
    );
  }
  if (!properties.length) element.append(h("p.quiet", "It takes none."));
  return {
    element,
    read() {
      /** @type {[string, unknown][]} */
      const entries = [];
      for (const [property, field] of fields) {
        let given;
        try {
          given = field.read();
        } catch (error) {
          if (error instanceof NotFilled && name) throw new NotFilled(`${name}.${error.field}`, error.reason);
          throw error;
        }
        if (given !== undefined) entries.push([property, given]);
        else if (required.has(property) && isBlankText(about(property))) entries.push([property, ""]);
        else if (required.has(property) && (place.required || place.depth === 0))
          throw new NotFilled(name ? `${name}.${property}` : property, "is needed");
      }
      // Not one by one, since a property may be called `__proto__`.
      return place.depth && !place.required && !entries.length ? undefined : Object.fromEntries(entries);
    },
    fill(value) {
      const given = /** @type {Record<string, unknown>} */ (isObject(value) ? value : {});
      for (const [property, field] of fields) if (Object.hasOwn(given, property)) field.fill(given[property]);
    },
  };

  /** @param {string} property */
  function about(property) {
    return resolved(schema.properties[property], place.whole);
  }
}

/** Whether an empty input may stand for an empty text. @param {Schema} schema */
function isBlankText(schema) {
  return schema.type === "string" && schema.minLength === 0;
}

/** @param {string} name @param {Schema} schema @param {boolean} required @param {Field} field */
function labelled(name, schema, required, field) {
  const input = field.element.matches(INPUTS)
    ? field.element
    : field.element.querySelector(":scope > input, :scope > textarea, :scope > select");
  const hint = hintOf(schema);
  const id = `field-${(made += 1)}`;
  const about = hWith("span.quiet.hint", { id: `${id}-hint` }, ...prose(hint));
  const wrong = hWith("span.wrong.field-wrong", { id: `${id}-wrong` });
  if (input) {
    input.id = id;
    input.setAttribute("aria-describedby", `${id}-hint ${id}-wrong`);
    if (required) input.setAttribute("aria-required", "true");
  } else {
    field.element.setAttribute("role", "group");
    field.element.setAttribute("aria-labelledby", `${id}-label`);
    field.element.setAttribute("aria-describedby", `${id}-hint`);
  }
  const words = [h("code", name), required ? h("span.needed", "needed") : null];
  const label = input
    ? hWith("label", { for: id, id: `${id}-label` }, ...words)
    : hWith("span.label", { id: `${id}-label` }, ...words);
  return hWith("div.field", { "data-field": name }, label, field.element, about, wrong);
}

/** @param {Schema} schema */
function hintOf(schema) {
  const parts = [];
  if (schema.description) parts.push(schema.description);
  if ("default" in schema && schema.default !== null && typeof schema.default !== "object" && schema.default !== "")
    parts.push(`Default: ${schema.default}.`);
  if (schema.minimum !== undefined && schema.maximum !== undefined)
    parts.push(`${schema.minimum} to ${schema.maximum}.`);
  return parts.join(" ");
}

/** @param {Schema} schema @param {string} name @param {Place} place @returns {Field} */
function textField(schema, name, place) {
  const isLong =
    !schema.pattern &&
    !schema.format &&
    (LONG.test(name) || schema.maxLength > 1000) &&
    !/_id$|_key$|_type$|encoding/.test(name);
  const common = {
    spellcheck: "false",
    autocomplete: "off",
    placeholder: "default" in schema && schema.default ? String(schema.default) : null,
  };
  const input = isLong ? hWith("textarea", { rows: 1, ...common }) : hWith("input", { type: "text", ...common });
  return {
    element: input,
    read: () => (input.value === "" && !(place.required && schema.minLength === 0) ? undefined : input.value),
    fill: (value) => (input.value = typeof value === "string" ? value : JSON.stringify(value)),
  };
}

/** @param {Schema} schema @param {string} name @returns {Field} */
function numberField(schema, name) {
  const input = hWith("input", {
    type: "text",
    inputmode: schema.type === "integer" ? "numeric" : "decimal",
    autocomplete: "off",
    placeholder: schema.default ?? null,
    class: "number",
  });
  return {
    element: input,
    read() {
      const text = input.value.trim();
      if (text === "") return undefined;
      const value = Number(text);
      if (Number.isNaN(value)) throw new NotFilled(name, "is no number");
      if (schema.type === "integer" && !Number.isInteger(value)) throw new NotFilled(name, "has to be a whole number");
      // A browser would alter it without a word.
      if (schema.type === "integer" && !Number.isSafeInteger(value))
        throw new NotFilled(name, "is too large for a browser; curl can send it");
      return value;
    },
    fill: (value) => (input.value = String(value)),
  };
}

/** @param {Schema} schema @returns {Field} */
function checkField(schema) {
  const input = hWith("input", { type: "checkbox" });
  let given = false;
  input.checked = schema.default;
  input.addEventListener("change", () => (given = true));
  return {
    element: input,
    read: () => (given || input.checked !== schema.default ? input.checked : undefined),
    fill(value) {
      given = true;
      input.checked = value === true;
    },
  };
}

/** @param {Schema} schema @param {unknown[]} choices @param {Place} place @returns {Field} */
function choiceField(schema, choices, place) {
  const none = "default" in schema && schema.default !== null ? `${schema.default} (default)` : "not given";
  const options = choices.map((choice, index) => hWith("option", { value: index }, String(choice)));
  const input = h("select", place.required && choices.length ? null : hWith("option", { value: "" }, none), ...options);
  return {
    element: input,
    read: () => (input.value === "" ? undefined : choices[Number(input.value)]),
    fill(value) {
      const index = choices.findIndex((choice) => choice === value);
      input.value = index < 0 ? "" : String(index);
    },
  };
}

/**
 * A list, or with `isMap` an object whose keys are not known before.
 *
 * @param {Schema} items @param {string} name @param {Place} place @param {boolean} [isMap] @returns {Field}
 */
function rowsField(items, name, place, isMap = false) {
  /** @type {{key: HTMLInputElement, field: Field}[]} */
  let rows = [];
  const list = h(isMap ? "ol.items.pairs" : "ol.items");
  const add = button("Add", () => append(undefined, "", true), { class: "small", "aria-label": `Add to ${name}` });
  /** @param {unknown} value @param {string} named @param {boolean} byHand */
  function append(value, named, byHand) {
    const input = { value: named, placeholder: "name", "aria-label": `${name}, a name`, autocomplete: "off" };
    const key = hWith("input", { type: "text", ...input });
    const below = { whole: place.whole, depth: place.depth + 1, required: true };
    const field = fieldOf(items, isMap ? "value" : `${name} ${rows.length + 1}`, below);
    if (field.element.matches(INPUTS))
      field.element.setAttribute("aria-label", isMap ? `${name}, its value` : `${name}, ${rows.length + 1}`);
    const entry = { key, field };
    const remove = button("Remove", () => drop(), { class: "small", "aria-label": `Remove from ${name}` });
    const row = h("li", isMap ? key : null, field.element, remove);
    function drop() {
      rows = rows.filter((one) => one !== entry);
      row.remove();
      add.focus();
      changed(add);
    }
    if (value !== undefined) field.fill(value);
    rows.push(entry);
    list.append(row);
    if (byHand) /** @type {HTMLElement | null} */ (row.querySelector(INPUTS))?.focus();
  }
  return {
    element: h("div.list", list, add),
    read() {
      const given = rows.filter(({ key }) => !isMap || key.value !== "");
      if (!given.length) return undefined;
      const values = given.map(({ field }) => field.read() ?? "");
      return isMap ? Object.fromEntries(given.map(({ key }, at) => [key.value, values[at]])) : values;
    },
    fill(value) {
      rows = [];
      list.replaceChildren();
      if (isMap) for (const [key, item] of Object.entries(isObject(value) ? value : {})) append(item, key, false);
      else for (const item of Array.isArray(value) ? value : []) append(item, "", false);
    },
  };
}

/** One of several schemas, of which the viewer chooses. @param {Schema[]} variants @param {string} name @param {Place} place @returns {Field} */
function variantField(variants, name, place) {
  const possible = variants
    .map((variant) => resolved(variant, place.whole))
    .filter((variant) => variant.type !== "null");
  const fields = possible.map((variant) =>
    fieldOf(variant, name, { ...place, depth: place.depth + 1, required: true }),
  );
  const names = possible.map(nameOf);
  const chooser = hWith(
    "select",
    { "aria-label": `What ${name} is` },
    hWith("option", { value: "" }, "not given"),
    ...names.map((label, index) => hWith("option", { value: index }, label)),
  );
  const body = h("div.variant");
  chooser.addEventListener("change", show);
  function show() {
    const field = fields[Number(chooser.value)];
    body.replaceChildren(...(chooser.value !== "" && field ? [field.element] : []));
    for (const input of body.querySelectorAll("input:not([id]), textarea:not([id]), select:not([id])")) {
      if (!input.hasAttribute("aria-label")) input.setAttribute("aria-label", name);
    }
  }
  if (place.required && possible.length) chooser.value = "0";
  show();
  return {
    element: h("div.one-of", chooser, body),
    read: () => (chooser.value === "" ? undefined : fields[Number(chooser.value)]?.read()),
    fill(value) {
      const index = possible.findIndex((variant) => fits(value, variant));
      chooser.value = index < 0 ? "" : String(index);
      fields[index]?.fill(value);
      show();
    },
  };
}

/** @param {string} name @returns {Field} */
function jsonField(name) {
  const input = hWith("textarea", {
    rows: 1,
    class: "code",
    spellcheck: "false",
    placeholder: 'JSON, such as {"a": 1} or "text"',
  });
  return {
    element: input,
    read: () => (input.value.trim() === "" ? undefined : parsed(input.value, name)),
    fill: (value) =>
      (input.value = JSON.stringify(value, null, isObject(value) && JSON.stringify(value).length > 60 ? 2 : undefined)),
  };
}

/**
 * Give texts that may be base64 a button that takes them from a file.
 *
 * @param {Schema} schema @param {Map<string, Field>} fields @param {Schema} whole
 */
function addFileButtons(schema, fields, whole) {
  for (const [name, about] of Object.entries(/** @type {Record<string, Schema>} */ (schema.properties ?? {}))) {
    const field = fields.get(name);
    const said =
      fields.get(`${name}_encoding`) ??
      (ENCODED.find((known) => fields.has(known)) === name ? fields.get("encoding") : undefined);
    const encoding = schema.properties[`${name}_encoding`] ?? schema.properties.encoding;
    const takesBase64 = said && resolved(encoding ?? {}, whole).enum?.includes("base64");
    const isBase64 = about.contentEncoding === "base64" || about.format === "byte" || /_base64$/.test(name);
    if (!field || !(takesBase64 || isBase64) || (name === "key" && !isBase64)) continue;
    const file = hWith("input", { type: "file", class: "hidden", tabindex: -1, "aria-hidden": "true" });
    const note = h("span.quiet");
    const choose = button("From a file …", () => file.click(), { class: "small" });
    file.addEventListener("change", async () => {
      const chosen = file.files?.[0];
      if (!chosen) return;
      if (chosen.size > LARGEST_FILE) {
        say(note, "This is more than a call carries. Larger ones go to the stream's address, see the guide on AWS.");
        return;
      }
      // A field that may be any JSON wants its text in quotes; `fill` writes it as it has to be.
      field.fill(base64(new Uint8Array(await chosen.arrayBuffer())));
      if (takesBase64) said.fill("base64");
      say(note, `${chosen.name}, ${chosen.size} bytes, as base64`);
      changed(choose);
    });
    field.element
      .closest(".field")
      ?.querySelector(".hint")
      ?.before(h("span.from-file", choose, file, note));
  }
}

/** @param {Uint8Array} bytes */
function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

/** @param {HTMLElement} element */
function changed(element) {
  element.dispatchEvent(new Event("change", { bubbles: true }));
}

/** @param {string} text @param {string} name */
function parsed(text, name) {
  try {
    return parseExactly(text);
  } catch (error) {
    throw new NotFilled(name, `is no JSON (${error instanceof Error ? error.message : ""}); a text stands in "quotes"`);
  }
}

/** Follow a reference into the schema's own definitions. @param {Schema} schema @param {Schema} whole @returns {Schema} */
function resolved(schema, whole) {
  let found = schema;
  for (let steps = 0; typeof found?.$ref === "string" && steps < 10; steps += 1) {
    const { $ref, ...others } = found;
    if (!$ref.startsWith("#/")) return {};
    /** @type {any} */
    let target = whole;
    for (const part of $ref.slice(2).split("/"))
      target = target?.[decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")];
    found = { ...target, ...others };
  }
  return typeof found === "object" && found !== null ? found : {};
}

const IS = /** @type {Record<string, (value: unknown) => boolean>} */ ({
  integer: Number.isInteger,
  array: Array.isArray,
  object: isObject,
});

/** Whether a value is of a schema's kind, by its first look. @param {unknown} value @param {Schema} schema @returns {boolean} */
function fits(value, schema) {
  if (schema.enum) return schema.enum.includes(value);
  if ("const" in schema) return schema.const === value;
  const { type, properties = {} } = schema;
  if (type === undefined) return true;
  if (!(IS[type]?.(value) ?? typeof value === type)) return false;
  return (
    type !== "object" ||
    schema.additionalProperties !== false ||
    Object.keys(Object(value)).every((key) => Object.hasOwn(properties, key))
  );
}

/** @param {Schema} schema */
function nameOf(schema) {
  if (schema.title) return schema.title;
  if (schema.enum) return schema.enum.slice(0, 3).join(" or ");
  if (schema.type === "object" && schema.properties)
    return `an object with ${Object.keys(schema.properties).slice(0, 3).join(", ")}`;
  if (schema.format === "date-time") return "a time, ISO 8601";
  return (
    /** @type {Record<string, string>} */ ({
      string: "a text",
      integer: "a whole number",
      number: "a number",
      boolean: "true or false",
      array: "a list",
      object: "an object",
    })[schema.type] ?? "any JSON"
  );
}

/** @param {unknown} value @returns {value is Record<string, unknown>} */
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value) && numberAsWritten(value) === null;
}

customElements.define("schema-form", SchemaForm);
