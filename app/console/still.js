// What news changes on a page waits while somebody is about to press something on it: what moves can't be hit, and what
// takes its place is hit by mistake.

const PRESSED = "#content :is(a, button, summary, label, input, select, textarea, tr[data-key])";
/** Milliseconds until a look or a press is over: who presses again within them means the same thing. */
const AFTER = 1000;

/** @type {Set<() => void>} */
const waiting = new Set();
/** @type {Element | null} what is aimed at, or was a moment ago */
let aimed = null;
/** What was pressed is not aimed at any more, until the pointer moves again. */
let isSpent = false;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let ending;

/** Whether something in there is aimed at. @param {Element} within */
export const isStill = (within) => within.contains(aimed);

/** Whether a change waits. */
export const isLate = () => waiting.size > 0;

/** Change what is shown: now, or once nothing is aimed at; then an event `still` tells. @param {() => void} change waits once */
export function calmly(change) {
  if (!aimed) change();
  else if (!waiting.has(change)) {
    waiting.add(change);
    dispatchEvent(new Event("still"));
  }
}

/** @param {PointerEvent} event */
function look({ type, buttons, pointerType, target }) {
  if (type === "pointermove") isSpent = false;
  else if (type === "pointerup") isSpent = true;
  const at = /** @type {Element} */ (target);
  if (buttons > 0 || (pointerType !== "touch" && !isSpent && at.closest(PRESSED))) {
    clearTimeout(ending);
    ending = undefined;
    aimed = at;
  } else if (aimed) ending ??= setTimeout(end, AFTER);
}

function end() {
  clearTimeout(ending);
  ending = undefined;
  aimed = null;
  const changes = [...waiting];
  waiting.clear();
  for (const change of changes) change();
  dispatchEvent(new Event("still"));
}

const ROOT = document.documentElement;
for (const name of /** @type {const} */ (["pointermove", "pointerover", "pointerdown", "pointerup", "pointercancel"]))
  ROOT.addEventListener(name, look, true);
ROOT.addEventListener("pointerleave", look);
document.addEventListener("visibilitychange", end);
