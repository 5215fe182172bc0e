// Making and updating elements. Text is always set as text: nothing that comes from elsewhere is read as HTML, and what
// would turn it round or not be seen in it (control characters, overrides of direction, zero widths) stands as an escape.

/** @typedef {Node | string | number | null | undefined | false} Child */

/** Line breaks and tabs are layout; variants of signs, and joiners beside what is not ASCII, are how some scripts are written. */
const UNSEEN =
  /(?![\t\n\r\ufe0e\ufe0f]|(?<=[^\0-\x7f])[\u200c\u200d])[\p{Cc}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;
const SVG = "http://www.w3.org/2000/svg";

/** @template {string} S @typedef {S extends `${infer K}.${string}` ? K : S} TagOf */
/** @template {string} S @typedef {TagOf<S> extends keyof HTMLElementTagNameMap ? HTMLElementTagNameMap[TagOf<S>] : never} ElementOf */

/**
 * Make an element of HTML that has children and nothing else: whatever stands here is shown and never obeyed, and an
 * object that came from elsewhere is its JSON.
 *
 * @template {string} S
 * @param {S} tag with classes, such as `p.quiet.none`
 * @param {...Child} children
 * @returns {ElementOf<S>}
 */
export const h = (tag, ...children) => hWith(tag, {}, ...children);

/**
 * Make an element of HTML with attributes, which are written where they are given: data is no attributes.
 *
 * @template {string} S
 * @param {S} tag with classes, such as `p.quiet.none`
 * @param {Record<string, unknown>} attributes listeners (`onclick`) among them; null and false leave one out
 * @param {...Child} children
 * @returns {ElementOf<S>}
 */
export function hWith(tag, attributes, ...children) {
  const [name = "", ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  assign(element, attributes);
  element.append(...shown(children));
  return /** @type {any} */ (element);
}

/**
 * Make an element of SVG.
 *
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [properties]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  assign(element, properties);
  element.append(...shown(children));
  return element;
}

/** Attributes that people read. */
const READ = /^(title|aria-label)$/;

/** Set attributes and listeners of an element. @param {Element} element @param {Record<string, unknown>} properties */
function assign(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : READ.test(name) ? visible(String(value)) : String(value));
  }
}

/**
 * Set an element's text if it is another one, so that nothing is painted or read out again that did not change.
 *
 * @param {Element} element
 * @param {string} text
 */
export function say(element, text) {
  const seen = visible(text);
  if (element.textContent !== seen) element.textContent = seen;
}

/** Write what is not seen as JSON, Python and JavaScript do. @param {string} text */
const visible = (text) =>
  text.replace(UNSEEN, (sign) =>
    sign.replace(/[^]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`),
  );

/** Texts beside each other, each read in its own direction. @param {(string | null | undefined | false)[]} texts */
export const dotted = (texts) => texts.filter(Boolean).flatMap((text, at) => [at ? " · " : null, h("bdi", text)]);

/**
 * Make a parent's children those of a list, keeping the elements of items that were there: focus and selection stay.
 *
 * @template T
 * @param {Element} parent
 * @param {readonly T[]} items
 * @param {(item: T) => string} key different for each item
 * @param {(item: T) => Element} make
 * @param {(element: any, item: T) => void} [update] called for each that was there before
 */
export function keyed(parent, items, key, make, update) {
  const focused = document.activeElement;
  const before = new Map([...parent.children].map((child) => [child.getAttribute("data-key") ?? "", child]));
  /** @type {Element | null} */
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let element = before.get(name);
    if (element) {
      before.delete(name);
      update?.(element, item);
    } else {
      element = make(item);
      element.setAttribute("data-key", name);
    }
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of before.values()) element.remove();
  // What is moved loses it.
  if (focused instanceof HTMLElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

/**
 * Find an element that must be there.
 *
 * @template {HTMLElement} [T=HTMLElement]
 * @param {ParentNode} within
 * @param {string} selector
 * @returns {T}
 */
export function find(within, selector) {
  const found = within.querySelector(selector);
  if (!found) throw new Error(`no ${selector}`);
  return /** @type {T} */ (found);
}

/** Make a button that copies a text. @param {() => string} text @param {string} [label] @returns {HTMLButtonElement} */
export function copyButton(text, label = "Copy") {
  const made = button(label, copy, { class: "small" });
  async function copy() {
    try {
      await navigator.clipboard.writeText(text());
      made.textContent = "Copied";
    } catch {
      made.textContent = "Can't copy here: select it";
    }
    setTimeout(() => (made.textContent = label), 2000);
  }
  return made;
}

/** Write a text with what stands in `backquotes` as code. @param {string} text @returns {Child[]} */
export function prose(text) {
  return text.split(/`([^`]+)`/).map((part, index) => (index % 2 ? h("code", part) : part));
}

/**
 * Show that there is nothing, or that something failed, and what to do about it.
 *
 * @param {string} title
 * @param {...Child} what
 * @returns {HTMLElement}
 */
export function notice(title, ...what) {
  return h("div.notice", h("p.notice-title", title), h("p", ...what));
}

/**
 * Make a table without a frame.
 *
 * @param {string[]} columns
 * @param {Child[][]} rows
 * @param {string[]} [numbers] the columns that hold some
 */
export function plainTable(columns, rows, numbers = []) {
  const kind = columns.map((column) => (numbers.includes(column) ? "number right" : null));
  const head = columns.map((column, at) => hWith("th", { scope: "col", class: kind[at] }, column));
  const body = rows.map((cells) => h("tr", ...cells.map((cell, at) => hWith("td", { class: kind[at] }, cell))));
  return h("table.rows.plain", h("thead", h("tr", ...head)), h("tbody", ...body));
}

/** Make a button. @param {string} text @param {(event: Event) => void} onclick @param {Record<string, unknown>} [more] */
export const button = (text, onclick, more = {}) => hWith("button", { type: "button", onclick, ...more }, text);

/** Make a word that is green or red. @param {boolean} isGood @param {string} text */
export const badge = (isGood, text) => h(isGood ? "span.badge.good" : "span.badge.bad", text);

/** Make an input that finds something among what is shown. @param {string} label @param {() => void} oninput @param {string} [placeholder] */
export const searchInput = (label, oninput, placeholder = label) =>
  hWith("input", { type: "search", placeholder, "aria-label": label, autocomplete: "off", oninput });

/** Make a label above an input. @param {string} label @param {HTMLElement} input its id is set @param {string | null} [kind] */
export const field = (label, input, kind = null) =>
  hWith("div", { class: kind }, hWith("label", { for: input.id }, label), input);

/** What is put into an element for its children. @param {Child[]} children @returns {(Node | string)[]} */
const shown = (children) =>
  children
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) =>
      child instanceof Node ? child : visible(typeof child === "object" ? JSON.stringify(child) : String(child)),
    );
