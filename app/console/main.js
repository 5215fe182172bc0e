// Starts the console: which page is shown, who looks, dark or light.

import "./access.js";
import "./calls.js";
import "./connect.js";
import "./kafka.js";
import "./knowledge.js";
import "./overview.js";
import "./settings.js";
import "./tools.js";
import { Problem } from "./api.js";
import { button, find, notice, say } from "./dom.js";
import { stream } from "./events.js";
import { isSignedIn, SignIn, signOut } from "./session.js";
import { isLate } from "./still.js";

/** @typedef {HTMLElement & {show?(query: URLSearchParams, rest: string[]): void, search?: HTMLElement}} Page */

const PAGES = /** @type {Record<string, string>} */ ({
  overview: "Overview",
  calls: "Calls",
  tools: "Tools",
  kafka: "Kafka",
  knowledge: "Knowledge",
  access: "Access",
  settings: "Settings",
  connect: "Connect",
});
/** Pages that not everybody has something on: what a viewer has to see, or may do, for a place in the bar. */
const WANTS = /** @type {Record<string, () => boolean | undefined>} */ ({
  kafka: () => sees("kafka"),
  knowledge: () => sees("database"),
  access: () => stream.hello?.may.keys,
  settings: () => stream.hello?.may.settings,
});
const THEMES = /** @type {const} */ (["system", "light", "dark"]);
const content = find(document, "#content");
const pages = find(document, "nav[aria-label=Pages]");
/** @type {Map<string, Page>} pages that were opened; they keep what was typed into them */
const opened = new Map();
/** @type {SignIn | null} */
let signIn = null;
/** Whether the viewer has been offered pages. */
let isOffered = false;

/** Show the page that the address names. */
function route() {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name = "", ...rest] = path.split("/");
  const shown = Object.hasOwn(PAGES, name) ? name : "overview";
  for (const link of pages.querySelectorAll("a")) {
    if (link.getAttribute("href") === `#/${shown}`) {
      link.setAttribute("aria-current", "page");
      showCurrent();
    } else link.removeAttribute("aria-current");
  }
  if (signIn) return;
  let page = opened.get(shown);
  if (!page) {
    page = /** @type {Page} */ (document.createElement(`${shown}-page`));
    opened.set(shown, page);
  }
  if (content.firstElementChild !== page) {
    content.replaceChildren(page);
    if (shown !== "overview") document.title = `${PAGES[shown]} · Switchboard`;
    scrollTo(0, 0);
  }
  page.show?.(new URLSearchParams(query), rest.map(decoded));
}

/** Have the bar show the link of the page that is shown, and move nothing but the bar. */
function showCurrent() {
  const link = /** @type {HTMLElement | null} */ (pages.querySelector("[aria-current]"));
  if (link) pages.scrollLeft = link.offsetLeft - (pages.clientWidth - link.offsetWidth) / 2;
}

/** A part of an address; as it stands where somebody has typed what is none. @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Whether the viewer sees a server. @param {string} server */
const sees = (server) => stream.snapshot?.servers.some(({ id }) => id === server);

/** Offer the pages on which there is something for the viewer. */
function offerPages() {
  if (isOffered && pages.matches(":hover")) return; // with the next snapshot
  isOffered = true;
  for (const [page, isWanted] of Object.entries(WANTS)) {
    const link = find(pages, `a[href="#/${page}"]`);
    if (link.hidden === !isWanted()) continue;
    link.hidden = !link.hidden;
    showCurrent(); // Where the bar is narrow, it has moved the place of the page that is shown.
  }
}

/** Say in the bar whether what is shown is what is. */
function showStanding() {
  const words = {
    connecting: "Connecting …",
    live: "Live",
    waiting: "No connection",
    refused: "Not allowed",
    hidden: "Asleep",
  };
  const live = find(document, "#live");
  const isSignedOut = stream.state === "refused" && stream.problem?.status === 401;
  live.dataset.state = isSignedOut ? "signedout" : stream.state;
  say(live, isSignedOut ? "Signed out" : stream.state === "live" && isLate() ? "Held" : words[stream.state]);
  const viewer = stream.hello?.viewer;
  say(
    find(document, "#viewer"),
    viewer ? `${viewer.principal}${viewer.roles.length ? ` (${viewer.roles.join(", ")})` : ""}` : "",
  );
  find(document, "#signout").hidden = !isSignedIn();
  if (stream.state === "refused" && stream.problem && stream.problem.status !== 401) {
    const what =
      stream.problem.status === 403
        ? "Ask an operator for a role that has the scope console:read, or sign in with another key."
        : "";
    const again = button("Sign in with another key", () => askForKey(new Problem("")));
    opened.clear();
    content.replaceChildren(notice("The console is not for this key", `${stream.problem.message} ${what} `, again));
  }
}

/** @param {Problem} why */
function askForKey(why) {
  opened.clear();
  if (signIn) return;
  signIn = new SignIn();
  content.replaceChildren(signIn);
  pages.hidden = true;
  document.title = "Sign in · Switchboard";
  if (stream.hello) signIn.tell(`The session has ended. ${why.message}`);
}

/** @param {string} theme */
function applyTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say(find(document, "#theme span"), `Theme: ${theme}`);
  find(document, "#theme").title = `Theme: ${theme}`;
}

const currentTheme = () => document.documentElement.dataset.theme ?? "system";

function nextTheme() {
  const next = THEMES[(THEMES.indexOf(/** @type {any} */ (currentTheme())) + 1) % THEMES.length] ?? "system";
  applyTheme(next);
  try {
    if (next === "system") localStorage.removeItem("theme");
    else localStorage.setItem("theme", next);
  } catch {
    // It lasts for as long as the page, then.
  }
}

addEventListener("hashchange", route);
addEventListener("signedout", (event) => askForKey(/** @type {CustomEvent} */ (event).detail));
addEventListener("signedin", () => {
  signIn = null;
  isOffered = pages.hidden = false;
  stream.forget();
  route();
});
addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || target.closest("input, textarea, select"))
    return;
  const { search } = /** @type {Page} */ (content.firstElementChild ?? {});
  if (!search) return;
  event.preventDefault();
  search.focus();
});
stream.addEventListener("state", showStanding);
addEventListener("still", showStanding);
stream.addEventListener("tick", () => {
  say(find(document, "#version"), `Switchboard ${stream.snapshot?.version ?? ""}`);
  offerPages();
});
find(document, "#theme").addEventListener("click", nextTheme);
find(document, "#signout").addEventListener("click", () => void signOut());
applyTheme(currentTheme());
showStanding();
route();
stream.start();
