// Whether all is well, in a sentence that somebody can act on.

import { number, outcomeInWords, percent, plural, timeOfDay } from "./format.js";

/** @typedef {import("./events.js").Stream} Stream */
/** @typedef {{tone: "good" | "warn" | "bad" | "quiet", title: string, detail: string}} Verdict */

/** Seconds that count as now. */
const RECENT = 60;
/** A share of failed calls from which on it is worth saying. */
const MANY = 0.05;
/** Calls below which a share says nothing. */
const FEW = 20;
/** Outcomes that are not the caller's doing. */
const OURS = /^(backend_|internal_error|identity_|audit_|too_many_requests)/;

/** Judge what the stream tells. @param {Stream} stream @returns {Verdict} */
export function verdict(stream) {
  const { snapshot } = stream;
  if (stream.state === "waiting") {
    const known = snapshot ? ` Shown is what was known at ${timeOfDay(snapshot.at)}.` : "";
    return {
      tone: "bad",
      title: "The gateway can't be watched",
      detail: `${stream.problem?.message ?? ""} Trying again.${known}`,
    };
  }
  if (!snapshot) return { tone: "quiet", title: "Asking the gateway …", detail: "" };
  if (!snapshot.servers.length) {
    const detail = "Your role may look at the console, but no tool or resource of any server is for it.";
    return { tone: "quiet", title: "There is nothing that you may see", detail };
  }
  const down = snapshot.servers.filter((server) => server.state === "down");
  const some = snapshot.servers.filter((server) => server.state === "degraded");
  const unset = snapshot.servers.filter((server) => server.state === "unconfigured");
  const { calls, errors } = recent(stream);
  const figures = calls
    ? `${plural(calls, "call")} in the last minute, ${errors ? number(errors) : "none"} failed`
    : "No calls in the last minute";
  if (down.length) {
    const others = snapshot.servers.length - down.length;
    const rest = others > 1 ? " The others work on." : others ? " The other one works on." : "";
    return {
      tone: "bad",
      title: `${names(down)} ${down.length === 1 ? "does" : "do"} not answer`,
      detail: `${figures}.${rest}`,
    };
  }
  if (calls >= FEW && errors / calls >= MANY) {
    const tone = snapshot.failing.some(({ outcome }) => OURS.test(outcome)) ? "bad" : "warn";
    const title = `${percent(errors, calls)} of the calls fail`;
    return { tone, title, detail: `${figures}. “Failing most” says which, and why.` };
  }
  if (some.length) {
    const tools = /** @type {const} */ (["off", "limited"]).flatMap((kind) => {
      const named = some.flatMap((server) => Object.keys(server[kind]));
      return named.length ? [`${named.join(", ")} ${named.length === 1 ? "is" : "are"} ${kind}`] : [];
    });
    const title = tools.length ? tools.join(", ") : `${names(some)} works in part`;
    return { tone: "warn", title, detail: `${figures}. The server's card says why.` };
  }
  if (unset.length) {
    const rest = unset.length < snapshot.servers.length ? "All else is well" : "The cards say what to set";
    const title = `${names(unset)} ${unset.length === 1 ? "is" : "are"} not configured`;
    return { tone: "warn", title, detail: `${figures}. ${rest}.` };
  }
  if (errors) {
    // The servers are not to blame for what was asked of them, nor is all well for who has asked.
    const [most] = snapshot.failing;
    const what = most ? `: ${errors > 1 ? "most often " : ""}${most.operation} (${outcomeInWords(most.outcome)})` : "";
    return { tone: "good", title: "All servers are well", detail: `${figures}${what}.` };
  }
  return { tone: "good", title: "All is well", detail: `${figures}.` };
}

/** @param {Stream} stream */
function recent({ series }) {
  if (!series) return { calls: 0, errors: 0 };
  // Of steps of a minute the last one has only begun: the one before is taken with it.
  const steps = Math.max(2, RECENT / series.step);
  const sum = (/** @type {number[]} */ values) => values.slice(-steps).reduce((all, value) => all + value, 0);
  return { calls: sum(series.calls), errors: sum(series.errors) };
}

/** @param {ServerState[]} servers */
function names(servers) {
  return servers
    .map(shortName)
    .join(", ")
    .replace(/, ([^,]*)$/, " and $1");
}

/** A server's name without what all of them are. @param {ServerState} server */
export const shortName = ({ name }) => name.replace(/ MCP Server$/, "");
