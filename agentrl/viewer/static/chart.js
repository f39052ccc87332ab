// One chart: lines by step, points of evaluations beside them, a cursor with every value at the step under it.
// Everything is made by createElement and textContent, so that a metric's or a run's name is never read as markup.
import { bounds, logTicks, nearest, scale, short, smooth, ticks } from "./scale.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 46; // at least; long numbers beside the axis widen it
const CHARACTER = 7; // pixels of a digit of such a number, and some to spare
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 20;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export class Chart {
  // `series`: [{label, style, points: [[step, value], ...], marks: bool}]
  constructor(name, onWide) {
    this.name = name;
    this.series = [];
    this.options = { smooth: 0, log: false };
    this.at = null;
    const title = element("button", { type: "button", title: `${name}: make it larger or smaller` }, name);
    title.addEventListener("click", () => onWide(this));
    this.value = element("b");
    this.plot = shape("svg", { class: "plot", tabindex: "0", role: "img" });
    this.readout = element("div", { class: "readout", hidden: "" });
    this.node = element("figure", { class: "chart", "data-metric": name }, element("h3", {}, title, this.value), this.plot, this.readout);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.leave());
    this.plot.addEventListener("blur", () => this.leave());
    this.plot.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  show(series, options) {
    this.series = series;
    this.options = options;
    const last = series.find((each) => !each.marks && each.points.length) ?? series.find((each) => each.points.length);
    const point = last?.points.at(-1);
    const lines = series.filter((each) => !each.marks).length;
    this.value.textContent = lines > 1 ? "" : point ? short(point[1]) : "–";
    const said = series.filter((each) => each.points.length).map((each) => `${each.label} ends at ${short(each.points.at(-1)[1])}`);
    this.plot.setAttribute("aria-label", `${this.name}: ${said.join(", ") || "no values"}; arrow keys read it step by step`);
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (!width) return;
    const { log } = this.options;
    const seen = this.series.filter((each) => each.points.length);
    const y = bounds(seen.flatMap((each) => each.points.map((point) => point[1])), log);
    const steps = seen.flatMap((each) => [each.points[0][0], each.points.at(-1)[0]]);
    this.plot.replaceChildren();
    if (!y) return this.say(log && seen.length ? "nothing above zero" : "no values", width, height);
    const x = [Math.min(...steps), Math.max(...steps)];
    if (x[0] === x[1]) x[1] = x[0] + 1;
    const rows = Math.max(2, Math.floor(height / 34));
    const values = log ? logTicks(...y, rows) : ticks(...y, rows);
    const left = Math.max(LEFT, 10 + CHARACTER * Math.max(...values.map((value) => short(value).length)));
    this.x = scale(x[0], x[1], left, width - RIGHT);
    this.y = scale(y[0], y[1], height - BOTTOM, TOP, log);
    this.axes(x, values, left, width, height);
    for (const each of seen) this.line(each);
    this.cursor = shape("g", {});
    this.plot.append(this.cursor);
    if (this.at !== null) this.read(this.at);
  }

  axes(x, values, left, width, height) {
    for (const value of values) {
      const at = Math.round(this.y(value)) + 0.5;
      this.plot.append(shape("line", { class: "grid", x1: left, x2: width - RIGHT, y1: at, y2: at }));
      this.plot.append(shape("text", { class: "y", x: left - 6, y: at + 3.5 }, short(value)));
    }
    for (const value of ticks(...x, Math.max(2, Math.floor(width / 90))).filter(Number.isInteger)) {
      this.plot.append(shape("text", { class: "x", x: this.x(value), y: height - 5 }, short(value)));
    }
  }

  line({ points, style, marks }) {
    const shown = this.options.log ? points.filter((point) => point[1] > 0) : points;
    const path = (list) => list.map(([a, b], index) => `${index ? "L" : "M"}${this.x(a).toFixed(1)} ${this.y(b).toFixed(1)}`).join("");
    if (marks) {
      for (const [a, b] of shown) {
        const [cx, cy] = [this.x(a), this.y(b)];
        this.plot.append(shape("path", { class: `mark ${style}`, d: `M${cx} ${cy - 5.5}L${cx + 5.5} ${cy}L${cx} ${cy + 5.5}L${cx - 5.5} ${cy}Z` }));
      }
      return;
    }
    if (shown.length === 1) return this.plot.append(shape("circle", { class: `mark ${style}`, cx: this.x(shown[0][0]), cy: this.y(shown[0][1]), r: 4 }));
    if (this.options.smooth) this.plot.append(shape("path", { class: `raw ${style}`, d: path(shown) }));
    this.plot.append(shape("path", { class: `line ${style}`, d: path(smooth(shown, this.options.smooth)) }));
  }

  say(text, width, height) {
    this.cursor = null;
    this.plot.append(shape("text", { class: "x", x: width / 2, y: height / 2 }, text));
  }

  // -- the cursor

  steps() {
    return [...new Set(this.series.flatMap((each) => each.points.map((point) => point[0])))].sort((a, b) => a - b);
  }

  point(event) {
    if (!this.cursor) return;
    const place = event.clientX - this.plot.getBoundingClientRect().left;
    const steps = this.steps();
    let best = steps[0];
    for (const step of steps) if (Math.abs(this.x(step) - place) < Math.abs(this.x(best) - place)) best = step;
    this.read(best);
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") return this.leave();
    if (by === undefined || !this.cursor) return;
    event.preventDefault();
    const steps = this.steps();
    const here = this.at === null ? (by > 0 ? -1 : steps.length) : steps.indexOf(this.at);
    this.read(steps[Math.min(steps.length - 1, Math.max(0, here + by))]);
    const spoken = document.querySelector("[data-spoken]");
    if (spoken) spoken.textContent = this.readout.textContent;
  }

  read(step) {
    this.at = step;
    const at = this.x(step);
    this.cursor.replaceChildren(shape("line", { class: "cursor", x1: at, x2: at, y1: TOP, y2: this.plot.clientHeight - BOTTOM }));
    this.readout.replaceChildren(element("small", { class: "muted" }, `step ${step.toLocaleString("en")}`));
    for (const each of this.series) {
      const found = each.points[nearest(each.points, step)];
      if (!found || found[0] !== step) continue;
      this.readout.append(element("div", { class: each.style }, element("span", {}, each.label), element("b", {}, short(found[1]))));
      if (!this.options.log || found[1] > 0) this.cursor.append(shape("circle", { class: `mark ${each.style}`, cx: at, cy: this.y(found[1]), r: 4 }));
    }
    this.readout.hidden = false;
    const own = this.readout.offsetWidth;
    const fits = at + 22 + own + 4 < this.node.clientWidth;
    this.readout.style.left = `${Math.max(4, fits ? at + 22 : at - own + 4)}px`;
    this.readout.style.top = `${this.plot.getBoundingClientRect().top - this.node.getBoundingClientRect().top + 6}px`;
  }

  leave() {
    this.at = null;
    this.readout.hidden = true;
    this.cursor?.replaceChildren();
  }
}
