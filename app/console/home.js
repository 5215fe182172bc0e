// The home page: asks which backends answer, and copies what is to be copied.

const root = document.documentElement.dataset.root ?? "";

/** Show what `/ready` says of each server; a gateway that does not answer is a state, too. */
async function showStates() {
  /** @type {Record<string, {ready: boolean, detail?: string | null}>} */
  let servers = {};
  let otherwise = "the gateway does not answer";
  try {
    const answer = await fetch(`${root}/ready`, { headers: { accept: "application/json" } });
    servers = (await answer.json()).servers ?? {};
    otherwise = "not told";
  } catch {
    // Shown on each card below.
  }
  for (const card of document.querySelectorAll("[data-server]")) {
    const state = servers[card.getAttribute("data-server") ?? ""];
    card.setAttribute("data-ready", String(state?.ready ?? false));
    const shown = card.querySelector(".state");
    if (shown) shown.textContent = state ? (state.ready ? "ready" : (state.detail ?? "not ready")) : otherwise;
  }
}

for (const button of document.querySelectorAll("button[data-copies]")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.getAttribute("data-copies") ?? "")?.textContent ?? "";
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  });
}

await showStates();
setInterval(() => document.hidden || showStates(), 10_000);
