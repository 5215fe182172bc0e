// <time-chart>: lines over the last minutes, with the values at the pointer. Drawn as SVG at the element's own size.

import { hourAndMinute, timeOfDay } from "./format.js";
import { hWith, say, svg } from "./dom.js";

const HEIGHT = 132;
const LEFT = 44;
const RIGHT = 6;
const TOP = 8;
const BOTTOM = 20;

export class TimeChart extends HTMLElement {
  /** @type {ChartData | null} */
  #data = null;
  /** @type {number | null} the point that is looked at */
  #chosen = null;
  #top = 0;
  #bottom = 0;
  #svg = svg("svg", { "aria-hidden": "true", focusable: "false", height: HEIGHT });
  #values = hWith("div.chart-values", { "aria-live": "polite" });
  #size = new ResizeObserver(() => this.#draw());

  connectedCallback() {
    if (!this.firstChild) {
      this.append(this.#svg, this.#values);
      this.tabIndex = 0;
      this.setAttribute("role", "group");
      this.addEventListener("pointermove", (event) => this.#look(this.#indexAt(event.clientX)));
      this.addEventListener("pointerleave", () => this.#look(null));
      this.addEventListener("blur", () => this.#look(null));
      this.addEventListener("keydown", (event) => this.#step(event));
    }
    this.#size.observe(this);
  }

  disconnectedCallback() {
    this.#size.disconnect();
  }

  /** @param {ChartData} data */
  set data(data) {
    this.#data = data;
    this.#draw();
  }

  /** @param {KeyboardEvent} event */
  #step(event) {
    const length = this.#length();
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -length, End: length }[event.key];
    if (by === undefined || !length) return;
    event.preventDefault();
    this.#look(Math.min(length - 1, Math.max(0, (this.#chosen ?? length - 1) + by)));
  }

  /** @param {number | null} index */
  #look(index) {
    if (index === this.#chosen) return;
    this.#chosen = index;
    this.#draw();
  }

  #length() {
    return this.#data?.lines[0]?.values.length ?? 0;
  }

  #width() {
    return Math.max(120, this.clientWidth);
  }

  /** @param {number} clientX */
  #indexAt(clientX) {
    const length = this.#length();
    if (length < 2) return null;
    const x = clientX - this.getBoundingClientRect().left;
    const index = Math.round(((x - LEFT) / (this.#width() - LEFT - RIGHT)) * (length - 1));
    return Math.min(length - 1, Math.max(0, index));
  }

  #draw() {
    const data = this.#data;
    const length = this.#length();
    if (!data || !this.isConnected) return;
    const width = this.#width();
    this.#scale(data);
    const span = Math.max(1, length - 1);
    const x = (/** @type {number} */ index) => LEFT + (index / span) * (width - LEFT - RIGHT);
    const y = (/** @type {number} */ value) => TOP + (1 - this.#share(value)) * (HEIGHT - TOP - BOTTOM);
    /** @type {SVGElement[]} */
    const parts = [...this.#grid(data, width, y), ...this.#times(data, length, x)];
    for (const line of data.lines) {
      const drawn = path(line.values, x, y);
      if (line.filled && drawn)
        parts.push(svg("path", { class: `fill ${line.kind}`, d: area(line.values, x, y, HEIGHT - BOTTOM) }));
      parts.push(svg("path", { class: `line ${line.kind}`, d: drawn }));
    }
    const chosen = this.#chosen !== null && this.#chosen < length ? this.#chosen : null;
    if (chosen !== null) {
      parts.push(svg("line", { class: "cross", x1: x(chosen), x2: x(chosen), y1: TOP, y2: HEIGHT - BOTTOM }));
      for (const line of data.lines) {
        const value = line.values[chosen];
        if (value !== null && value !== undefined)
          parts.push(svg("circle", { class: line.kind, cx: x(chosen), cy: y(value), r: 3 }));
      }
    }
    this.#svg.setAttribute("width", String(width));
    this.#svg.replaceChildren(...parts);
    const told = (/** @type {number} */ at) =>
      data.lines.map((line) => `${line.name} ${shown(line.values[at], data)}`).join(" · ");
    say(this.#values, chosen === null ? "" : `${timeOfDay(data.from + chosen * data.step)}  ${told(chosen)}`);
    const name = this.dataset.name ?? "";
    this.setAttribute(
      "aria-label",
      length ? `${name}: now ${told(length - 1)}. Arrow keys read earlier values.` : name,
    );
  }

  /** Choose the scale: it grows at once and shrinks only by much, so that it rarely moves. @param {ChartData} data */
  #scale(data) {
    const values = data.lines.flatMap((line) => line.values.filter((value) => value !== null && value !== undefined));
    const largest = Math.max(data.least ?? 1, ...values);
    if (data.logarithmic) {
      this.#top = 10 ** Math.ceil(Math.log10(largest) - 0.02);
      const smallest = Math.min(...values.filter((value) => value > 0), this.#top / 10);
      this.#bottom = Math.max(0.1, 10 ** Math.floor(Math.log10(smallest)));
    } else if (largest > this.#top || largest < this.#top / 3) {
      this.#top = nice(largest * 1.1);
    }
  }

  /** @param {number} value */
  #share(value) {
    if (!this.#data?.logarithmic) return Math.min(1, value / this.#top);
    const least = Math.log10(this.#bottom);
    return Math.max(0, (Math.log10(Math.max(value, this.#bottom)) - least) / (Math.log10(this.#top) - least));
  }

  /** @param {ChartData} data @param {number} width @param {(value: number) => number} y */
  #grid(data, width, y) {
    const marks = data.logarithmic ? decades(this.#bottom, this.#top) : [0, this.#top / 2, this.#top];
    return marks.flatMap((mark) => [
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(mark), y2: y(mark) }),
      svg("text", { class: "mark", x: LEFT - 7, y: y(mark) + 3.5, "text-anchor": "end" }, data.format(mark)),
    ]);
  }

  /** @param {ChartData} data @param {number} length @param {(index: number) => number} x */
  #times(data, length, x) {
    const parts = [];
    for (let index = 0; index < length; index += 1) {
      const at = data.from + index * data.step;
      const isShown = at % 300 < data.step && x(index) > LEFT + 12 && x(index) < x(length - 1) - 12;
      if (isShown)
        parts.push(
          svg("text", { class: "mark", x: x(index), y: HEIGHT - 5, "text-anchor": "middle" }, hourAndMinute(at)),
        );
    }
    return parts;
  }
}

/** @param {number | null | undefined} value @param {ChartData} data */
function shown(value, data) {
  return value === null || value === undefined ? "–" : data.format(value);
}

/** @param {(number | null)[]} values @param {(index: number) => number} x @param {(value: number) => number} y */
function path(values, x, y) {
  let drawn = "";
  let pen = false;
  values.forEach((value, index) => {
    const gap = value === null || value === undefined;
    if (!gap) {
      drawn += `${pen ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      // A point between two gaps would be a line of no length, which nobody sees.
      if (!pen && (values[index + 1] ?? null) === null) drawn += "h1.5";
    }
    pen = !gap;
  });
  return drawn;
}

/**
 * @param {(number | null)[]} values
 * @param {(index: number) => number} x
 * @param {(value: number) => number} y
 * @param {number} floor
 */
function area(values, x, y, floor) {
  const filled = values.map((value) => value ?? 0);
  return `${path(filled, x, y)}L${x(filled.length - 1).toFixed(1)} ${floor}L${x(0).toFixed(1)} ${floor}Z`;
}

/** The next larger number whose half is round, too. @param {number} value */
export function nice(value) {
  const decade = 10 ** Math.floor(Math.log10(value));
  return decade * ([1, 2, 3, 4, 6, 8].find((step) => step * decade >= value) ?? 10);
}

/** @param {number} least @param {number} most */
function decades(least, most) {
  const marks = [];
  const step = most / least > 1e4 ? 100 : 10;
  for (let mark = least; mark <= most * 1.01; mark *= step) marks.push(mark);
  return marks;
}

customElements.define("time-chart", TimeChart);
