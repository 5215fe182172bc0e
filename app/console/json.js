// JSON whose numbers stay what they are: JavaScript would make 9007199254740992 of 9007199254740993.

/** What the language has and its declarations do not have yet. @type {any} */
const native = JSON;

/**
 * Parse JSON; a number that a double would write otherwise is kept as it stood, where the browser can.
 *
 * @param {string} text
 * @returns {any}
 * @throws {SyntaxError}
 */
export function parseExactly(text) {
  if (!native.rawJSON) return JSON.parse(text);
  return native.parse(
    text,
    (/** @type {string} */ _, /** @type {unknown} */ value, /** @type {{source?: string}} */ { source }) =>
      typeof value === "number" && source !== undefined && String(value) !== source ? native.rawJSON(source) : value,
  );
}

/** How a number stood in its JSON; null for all else. @param {unknown} value @returns {string | null} */
export function numberAsWritten(value) {
  if (typeof value === "number") return String(value);
  return native.isRawJSON?.(value) ? /** @type {{rawJSON: string}} */ (value).rawJSON : null;
}
