// Numbers, times and names as people read them. Times are in the viewer's zone.

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const minutes = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const dayOfYear = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** @param {number} seconds since 1970 */
export const timeOfDay = (seconds) => clock.format(seconds * 1000);

/** @param {number} seconds since 1970 */
export const hourAndMinute = (seconds) => minutes.format(seconds * 1000);

/** @param {number} seconds since 1970 */
export const wholeTime = (seconds) => whole.format(seconds * 1000);

/** Since when: a time of today, a day and a time, or a day of another year. @param {number} seconds since 1970 */
export function since(seconds) {
  const at = new Date(seconds * 1000);
  const now = new Date();
  if (now.getFullYear() !== at.getFullYear()) return dayOfYear.format(at);
  return now.toDateString() === at.toDateString() ? minutes.format(at) : `${day.format(at)}, ${minutes.format(at)}`;
}

/** A duration with as many digits as mean something. @param {number | null | undefined} ms */
export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/** How long something runs already. @param {number} seconds */
export function age(seconds) {
  if (seconds < 100) return `${Math.max(0, seconds).toFixed(1)} s`;
  return seconds < 6000 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
}

/** @param {number} value a second */
export function rate(value) {
  return value === 0 ? "0" : value < 9.95 ? value.toFixed(1) : count.format(value);
}

/** @param {number} value */
export const number = (value) => count.format(value);

/** A share, never "0 %" for what is not nothing. @param {number} part @param {number} all */
export function percent(part, all) {
  if (!all || !part) return "0 %";
  const share = (100 * part) / all;
  return share < 0.1 ? "< 0.1 %" : share < 9.95 ? `${share.toFixed(1)} %` : `${Math.round(share)} %`;
}

/** A count and its noun. @param {number} value @param {string} one @param {string} [many] */
export const plural = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;

/** @param {number} bytes */
export function size(bytes) {
  return bytes < 1000
    ? plural(bytes, "byte")
    : bytes < 1e6
      ? `${(bytes / 1e3).toFixed(1)} kB`
      : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** @param {string} text */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** An outcome in words. @param {string} outcome `ok` or the code of a failure */
export const outcomeInWords = (outcome) => outcome.replaceAll("_", " ");
