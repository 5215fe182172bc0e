// <knowledge-page>: asks the knowledge base as an agent does, and shows what was found and why.

import { asProblem, callTool, readResource } from "./api.js";
import { dotted, field, h, hWith, notice, say } from "./dom.js";
import { milliseconds, number, plural } from "./format.js";

/** What an answer's `fit` has to be at least to answer the question. */
const ANSWERS = 0.5;
/** Ways in which an article is found, and the modes of a search. */
const WAYS = /** @type {Record<string, string>} */ ({
  both: "words and meaning",
  lexical: "words",
  semantic: "words and meaning",
});
const KNOWN = new Set("id slug title score fit snippet tags language updated_at matched_by".split(" "));

export class KnowledgePage extends HTMLElement {
  #question = hWith("input", {
    type: "search",
    id: "question",
    value: "how do i reset my pasword",
    autocomplete: "off",
    required: true,
    maxlength: 500,
  });
  #limit = hWith("input", { type: "number", id: "most", min: 1, max: 50, value: 5, class: "number" });
  #language = hWith("input", { type: "text", id: "language", placeholder: "any", maxlength: 8, autocomplete: "off" });
  #told = hWith("p.quiet.number", { role: "status" });
  #hits = h("ol.hits");
  #asked = 0;

  connectedCallback() {
    if (this.firstChild) return;
    this.append(
      h("header.page-head", h("h1", "Knowledge"), h("p.quiet", "What an agent finds for a question, and why.")),
      hWith(
        "form.card.ask",
        { onsubmit: (/** @type {Event} */ event) => void this.#search(event) },
        field("Question", this.#question, "ask-question"),
        field("At most", this.#limit, "ask-most"),
        field("Language", this.#language, "ask-language"),
        hWith("button", { type: "submit", class: "primary" }, "Search"),
      ),
      this.#told,
      this.#hits,
    );
  }

  get search() {
    return this.#question;
  }

  /** @param {Event} event */
  async #search(event) {
    event.preventDefault();
    const asked = (this.#asked += 1);
    const language = this.#language.value.trim();
    const value = {
      search_term: this.#question.value,
      limit: Number(this.#limit.value) || 5,
      ...(language ? { language } : {}),
    };
    say(this.#told, "Searching …");
    const began = performance.now();
    try {
      const found = await callTool("database", "search_knowledge_base", value);
      if (asked !== this.#asked) return;
      const took = milliseconds(performance.now() - began);
      const all = found.total > found.articles.length ? ` of ${number(found.total)}` : "";
      const mode = found.mode ? ` · searched by ${WAYS[found.mode] ?? found.mode}` : "";
      const poor = found.articles.length && !found.articles.some(answers) ? " · none of them answers it well" : "";
      say(this.#told, `${plural(found.articles.length, "article")}${all} · ${took}${mode}${poor}`);
      const best = Math.max(0.001, ...found.articles.map((/** @type {Hit} */ hit) => hit.score));
      this.#hits.replaceChildren(...found.articles.map((/** @type {Hit} */ hit) => hitCard(hit, best)));
      if (!found.articles.length)
        this.#hits.replaceChildren(
          h("li.card", notice("Nothing fits", "Ask in other words, or leave the language out.")),
        );
    } catch (error) {
      if (asked !== this.#asked) return;
      say(this.#told, "");
      this.#hits.replaceChildren(h("li.card", notice("The search failed", asProblem(error).message)));
    }
  }
}

/** @param {Hit} hit */
const answers = ({ fit }) => fit === undefined || fit >= ANSWERS;

/** @param {Hit} hit @param {number} best the highest score of the answer */
function hitCard(hit, best) {
  const { fit } = hit;
  const by = hit.matched_by === undefined ? [] : [hit.matched_by].flat();
  const others = Object.entries(hit).filter(([name, value]) => !KNOWN.has(name) && value !== null);
  return h(
    "li.card.hit",
    h(
      "div.hit-head",
      h("h2", hit.title),
      ...by.map((way) => hWith("span.badge.busy", { title: "How it was found" }, WAYS[way] ?? way)),
      answers(hit) ? null : h("span.badge.warn", "hardly answers it"),
    ),
    h("p.hit-snippet", "… ", ...marked(hit.snippet), " …"),
    h(
      "dl.why",
      ...bar("Score", hit.score.toFixed(3), hit.score / best, "Comparable within this answer only"),
      ...(fit === undefined
        ? []
        : bar("Fit", `${Math.round(fit * 100)} %`, fit, "How much of the question it speaks of")),
      ...others.flatMap(([name, value]) => [h("dt", name.replaceAll("_", " ")), h("dd", shown(value))]),
    ),
    hWith(
      "details.more",
      { ontoggle: (/** @type {Event} */ event) => void open(/** @type {HTMLDetailsElement} */ (event.target), hit.id) },
      h("summary", "The whole article"),
      h("p.quiet", ...dotted([hit.slug, hit.language, ...hit.tags])),
    ),
  );
}

/** @param {unknown} value */
function shown(value) {
  return typeof value === "number"
    ? String(Math.round(value * 1000) / 1000)
    : typeof value === "string"
      ? value
      : JSON.stringify(value);
}

/** @param {string} name @param {string} words @param {number} part of 1 @param {string} about */
function bar(name, words, part, about) {
  return [
    hWith("dt", { title: about }, name),
    h("dd", h("span.number", words), hWith("meter", { min: 0, max: 1, value: part.toFixed(3), "aria-hidden": "true" })),
  ];
}

/** A text with what stands in **asterisks** marked. @param {string} text */
function marked(text) {
  return text.split(/\*\*(.+?)\*\*/s).map((part, index) => (index % 2 ? h("mark", part) : part));
}

/** @param {HTMLDetailsElement} details @param {number} id */
async function open(details, id) {
  if (!details.open || details.querySelector("pre")) return;
  const body = hWith("pre.article", { tabindex: "0", "aria-label": "The article" }, "Asking …");
  details.append(body);
  try {
    const { knowledge_article: article } = await readResource(`db://knowledge_articles/${id}`);
    say(body, article.body);
  } catch (error) {
    say(body, asProblem(error).message);
  }
}

customElements.define("knowledge-page", KnowledgePage);
