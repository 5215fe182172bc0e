// <kafka-page>: topics, consumer groups with what they have yet to do, and a topic's messages as they come.

import { ask, asProblem, callTool, Problem, readResource } from "./api.js";
import { button, h, hWith, notice, plainTable, say } from "./dom.js";
import { messagesOf } from "./events.js";
import { number, plural, sentence, timeOfDay, wholeTime } from "./format.js";
import { parseExactly } from "./json.js";
import { facts, table } from "./result.js";
import { calmly } from "./still.js";

/** Messages that are shown of those that have come. */
const MOST_SHOWN = 200;
/** Messages that were there before somebody looked. */
const BEFORE = 20;
/** Milliseconds between two paints, so that many messages a second can be followed. */
const PAUSE = 200;
/** Milliseconds after which a stream that broke is begun anew. */
const AGAIN = 2000;

export class KafkaPage extends HTMLElement {
  #title = h("h1");
  #about = h("p.quiet.number");
  #content = h("div.stack");
  #wanted = "";
  #shown = "";
  /** @type {Tail | null} */
  #tail = null;

  connectedCallback() {
    if (this.firstChild) return;
    const again = button("Look again", () => void this.#load());
    this.append(h("header.page-head", this.#title, this.#about, h("div.buttons", again)), this.#content);
  }

  disconnectedCallback() {
    this.#tail?.stop();
    this.#tail = null;
    this.#wanted = "";
  }

  /** @param {URLSearchParams} _query @param {string[]} wanted `topic` or `group`, and its name */
  show(_query, wanted) {
    const key = wanted.join("/");
    if (key === this.#wanted && this.#content.firstChild) return;
    this.#wanted = key;
    void this.#load();
  }

  async #load() {
    const wanted = this.#wanted;
    const [kind, ...rest] = wanted.split("/");
    const name = rest.join("/");
    this.#tail?.stop();
    this.#tail = null;
    say(this.#title, name || "Kafka");
    say(this.#about, kind === "topic" ? "Topic" : kind === "group" ? "Consumer group" : "");
    if (!this.#content.firstChild || wanted !== this.#shown) this.#content.replaceChildren(h("p.quiet", "Asking …"));
    this.#shown = wanted;
    const parts = kind === "topic" ? [aboutTopic(name)] : kind === "group" ? [aboutGroup(name)] : [topics(), groups()];
    const found = (await Promise.all(parts.map(orNotice))).flat();
    // What keeps all of it from being shown is said once.
    const shown = [...new Map(found.map((section) => [section.textContent, section])).values()];
    if (wanted !== this.#wanted || !this.isConnected) return;
    const back = name ? [h("p", hWith("a", { href: "#/kafka" }, "‹ All topics and groups"))] : [];
    this.#content.replaceChildren(...back, ...shown);
    if (kind === "topic" && !shown.some((section) => section.matches("[data-status='404']"))) {
      this.#tail = new Tail(name);
      this.#content.append(this.#tail.element);
    } else if (!name) {
      void this.#showBrokers();
    }
  }

  async #showBrokers() {
    try {
      const { brokers, cluster_id: cluster } = await readResource("kafka://brokers");
      say(this.#about, `${plural(brokers.length, "broker")}${cluster ? `, cluster ${cluster}` : ""}`);
    } catch (error) {
      asProblem(error); // what else is wrong stands where the topics would
    }
  }
}

/** @param {Promise<Element[]>} shown */
async function orNotice(shown) {
  try {
    return await shown;
  } catch (error) {
    const { message, status } = asProblem(error);
    return [hWith("section.card", { "data-status": status }, notice("This can't be shown", sentence(message)))];
  }
}

async function topics() {
  const { topics: found, truncated, total } = await callTool("kafka", "list_topics");
  const rows = found.map((/** @type {any} */ topic) => [
    hWith("a", { href: `#/kafka/topic/${encodeURIComponent(topic.name)}` }, topic.name),
    number(topic.partitions),
    number(topic.replication_factor),
  ]);
  return [listing("topic", ["Topic", "Partitions", "Replicas"], rows, truncated ? total : 0)];
}

async function groups() {
  const { groups: found, total } = await readResource("kafka://consumer-groups");
  const rows = found.map((/** @type {any} */ group) => [
    hWith("a", { href: `#/kafka/group/${encodeURIComponent(group.group_id)}` }, group.group_id),
    group.state,
    number(group.members),
    group.total_lag === null ? "unknown" : number(group.total_lag),
  ]);
  return [listing("consumer group", ["Group", "State", "Members", "Lag"], rows, total)];
}

/** @param {string} what one of them @param {string[]} columns @param {(Node | string)[][]} rows @param {number} total of them, if known */
function listing(what, columns, rows, total) {
  const numbers = columns.filter((column, at) => at > 0 && column !== "State");
  const cut = total > rows.length ? `The first ${rows.length} of ${number(total)} are shown.` : "";
  const told = rows.length ? cut : `There is no ${what} yet.`;
  return h(
    "section.card",
    h("h2", `${sentence(what)}s`),
    rows.length ? plainTable(columns, rows, numbers) : null,
    told ? h("p.quiet.none", told) : null,
  );
}

/** @param {string} name */
async function aboutTopic(name) {
  const about = await callTool("kafka", "get_topic_metadata", { topic: name });
  const { message_count: count, partitions, config, replication_factor: replicas } = about;
  const told = facts([
    ["Messages", count === null ? "unknown" : number(count)],
    ["Replicas", replicas],
    ...Object.entries(config),
  ]);
  return [
    h(
      "section.card",
      told,
      h("details.more", h("summary", plural(partitions.length, "partition")), table("", partitions)),
    ),
  ];
}

/** @param {string} name */
async function aboutGroup(name) {
  const about = await readResource(`kafka://consumer-groups/${encodeURIComponent(name)}`);
  const { state, total_lag: lag, partitions, members } = about;
  const told = facts([
    ["State", state],
    ["Members", members.length],
    ["Messages yet to acknowledge", lag === null ? "unknown" : number(lag)],
  ]);
  const rows = partitions.length ? table("", partitions) : h("p.quiet.none", "It has read nothing yet.");
  return [h("section.card", told), h("section.card", h("h2", "By partition"), rows)];
}

/** A topic's newest messages, and those that come. A hidden tab follows nothing. */
class Tail {
  #topic;
  #told = hWith("p.quiet.number.told", { role: "status" });
  #list = h("ol.messages");
  #pause = button("Pause", () => this.#setPaused(!this.#paused), { class: "small" });
  #paused = false;
  #count = 0;
  #cursor = "";
  /** @type {KafkaMessage[]} the oldest first */
  #waiting = [];
  /** @type {AbortController | null} */
  #reading = null;
  #problem = "";
  #sayWhy = () => say(this.#told, `Not followed: ${this.#problem}`);
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #painting;
  #look = () => (document.hidden ? this.#reading?.abort() : void this.#follow());

  /** @param {string} topic */
  constructor(topic) {
    this.#topic = topic;
    this.element = hWith(
      "section.card",
      { "aria-label": "Messages as they come" },
      h("header.form-head", h("h2", "Messages"), this.#told, this.#pause),
      this.#list,
    );
    document.addEventListener("visibilitychange", this.#look);
    void this.#begin();
  }

  stop() {
    document.removeEventListener("visibilitychange", this.#look);
    this.#reading?.abort();
    this.#reading = null;
    clearTimeout(this.#painting);
    this.#topic = "";
  }

  async #begin() {
    say(this.#told, "Asking …");
    try {
      const newest = { topic: this.#topic, start: { tail: BEFORE }, max_messages: BEFORE, timeout_ms: 0 };
      const { messages, next_cursor: cursor } = await callTool("kafka", "consume_messages", newest, parseExactly);
      this.#cursor = cursor ?? "";
      for (const message of messages) this.#take(message);
      await this.#follow();
    } catch (error) {
      this.#fail(asProblem(error));
    }
  }

  async #follow() {
    if (!this.#topic || document.hidden) return;
    this.#reading?.abort();
    const reading = (this.#reading = new AbortController());
    const where = this.#cursor ? `?cursor=${encodeURIComponent(this.#cursor)}` : "";
    try {
      const path = `/console/streams/kafka/topics/${encodeURIComponent(this.#topic)}/stream${where}`;
      const response = await ask("GET", path, undefined, reading.signal);
      this.#tell();
      for await (const { name, data, id } of messagesOf(response)) {
        if (id) this.#cursor = id;
        if (name === "message" && data) this.#take(parseExactly(data));
        else if (name === "failure") throw new Problem(JSON.parse(data).detail, JSON.parse(data));
      }
      throw new Problem("The stream has ended.");
    } catch (error) {
      if (reading !== this.#reading || reading.signal.aborted) return;
      const problem = error instanceof Problem ? error : new Problem("The gateway does not answer.");
      this.#fail(problem);
      const lasts = problem.status >= 400 && problem.status < 500 && problem.status !== 429;
      if (!lasts && this.#topic) setTimeout(() => void this.#follow(), AGAIN);
    }
  }

  /** @param {Problem} problem */
  #fail(problem) {
    this.#problem = problem.message;
    calmly(this.#sayWhy);
  }

  /** @param {KafkaMessage} message */
  #take(message) {
    this.#count += 1;
    this.#waiting.push(message);
    if (this.#waiting.length > MOST_SHOWN) this.#waiting.shift();
    this.#painting ??= setTimeout(() => {
      this.#painting = undefined;
      this.#tell();
      calmly(this.#paint);
    }, PAUSE);
  }

  #paint = () => {
    if (!this.#paused) {
      this.#list.prepend(...this.#waiting.reverse().map(row));
      this.#waiting = [];
      while (this.#list.childElementCount > MOST_SHOWN) this.#list.lastElementChild?.remove();
    }
    this.#tell();
  };

  #tell() {
    const waiting = this.#waiting.length ? `, ${number(this.#waiting.length)} wait` : "";
    const shown = this.#count ? `${plural(this.#count, "message")}${waiting}` : "None yet; they appear as they come";
    say(this.#told, `${this.#paused ? "Paused" : "Live"} · ${shown}`);
  }

  /** @param {boolean} paused */
  #setPaused(paused) {
    this.#paused = paused;
    say(this.#pause, paused ? "Go on" : "Pause");
    this.#paint();
  }
}

/** @param {KafkaMessage} message */
function row(message) {
  const at = message.timestamp === null ? null : Date.parse(message.timestamp) / 1000;
  const value = typeof message.value === "string" ? message.value : JSON.stringify(message.value);
  return h(
    "li",
    h(
      "details",
      h(
        "summary",
        hWith("span.quiet.number", { title: at === null ? null : wholeTime(at) }, at === null ? "–" : timeOfDay(at)),
        h("span.quiet.number", `${message.partition}:${message.offset}`),
        message.key === null ? null : h("code.message-key", message.key),
        h("code.message-value", value.length > 300 ? `${value.slice(0, 300)} …` : value),
      ),
      hWith("pre", { tabindex: "0", "aria-label": "The whole message" }, JSON.stringify(message, null, 2)),
    ),
  );
}

customElements.define("kafka-page", KafkaPage);
