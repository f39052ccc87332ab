// The metrics of the runs on a page: fetched once, then only what came later. No drawing.
import { fetchJson } from "./address.js";

const FIRST = ["reward", "accuracy", "correct", "loss", "grad_norm", "entropy", "behaviour_kl", "clip_fraction", "lr", "tokens_per_second", "seconds", "turns", "tokens", "tool_calls", "tool_errors"];

export class Run {
  constructor(key) {
    const cut = key.lastIndexOf(":");
    this.address = `/data/${encodeURIComponent(key.slice(0, cut))}/${key.slice(cut + 1)}/series`;
    this.key = key;
    this.name = key;
    this.live = false;
    this.phases = {};
  }

  // Whether anything is new.
  async refresh() {
    const known = Object.entries(this.phases).map(([phase, { last }]) => ["after", `${phase}:${last}`]);
    let answer = await fetchJson(`${this.address}?${new URLSearchParams(known)}`);
    const again = Object.entries(this.phases).some(([phase, columns]) => !goesOn(columns, answer.phases[phase]));
    if (again) {
      this.phases = {};
      answer = await fetchJson(this.address);
    }
    this.name = answer.name;
    this.live = answer.live;
    let fresh = again;
    for (const [phase, columns] of Object.entries(answer.phases)) fresh = this.take(phase, columns) || fresh;
    return fresh;
  }

  take(phase, { last, steps, metrics }) {
    const known = (this.phases[phase] ??= { last, metrics: {} });
    known.last = last;
    let fresh = false;
    for (const [name, values] of Object.entries(metrics)) {
      const points = (known.metrics[name] ??= []);
      values.forEach((value, index) => {
        if (value === null || points.at(-1)?.[0] >= steps[index]) return;
        points.push([steps[index], value]);
        fresh = true;
      });
    }
    return fresh;
  }
}

// Whether an answer continues what is known: it begins with the last step that is known, and that has kept its values.
// A run that was resumed from an earlier step has taken steps back and does them again, with other values.
function goesOn({ last, metrics }, columns) {
  if (columns?.steps[0] !== last) return false;
  return Object.entries(metrics).every(([name, points]) => points.at(-1)?.[0] !== last || columns.metrics[name]?.[0] === points.at(-1)[1]);
}

const SUMS = ["tokens", "seconds", "episodes"]; // of evaluations of another size: no points on training's chart

// Where a metric is drawn: with training's, with its own phase's, or, for evaluations, on training's chart of that name.
function home(phase, name, training) {
  if (phase.startsWith("eval/") && training.has(name) && !SUMS.includes(name)) return { group: groupOf(name), id: `train:${name}`, title: name, marks: true };
  if (phase === "train") return { group: groupOf(name), id: `train:${name}`, title: name, marks: false };
  return { group: phase.replaceAll("_", " "), id: `${phase}:${name}`, title: name, marks: false };
}

function groupOf(name) {
  if (FIRST.includes(name)) return "Learning";
  const cut = name.indexOf("/");
  return cut > 0 ? name.slice(0, cut).replaceAll("_", " ") : "More";
}

// Groups in their order: Map(group -> Map(chart id -> {title, series})).
export function grouped(runs, hidden) {
  const training = new Set(runs.flatMap((run) => Object.keys(run.phases.train?.metrics ?? {})));
  const groups = new Map();
  runs.forEach((run, place) => {
    for (const phase of ordered(run.phases)) {
      for (const [name, points] of Object.entries(run.phases[phase].metrics)) {
        const at = home(phase, name, training);
        if (!points.length || (points.length < 2 && phase !== "train" && !at.marks)) continue;
        const charts = groups.get(at.group) ?? groups.set(at.group, new Map()).get(at.group);
        const chart = charts.get(at.id) ?? charts.set(at.id, { title: at.title, series: [] }).get(at.id);
        if (hidden.has(run.key)) continue;
        const label = runs.length > 1 ? (at.marks ? `${run.name}, ${phase}` : run.name) : phase.replaceAll("_", " ");
        chart.series.push({ label, points, marks: at.marks, style: `s${(runs.length > 1 ? place : at.marks ? 1 : 0) % 10}${runs.length > 1 && !at.marks && place ? ` dash${place % 5}` : ""}` });
      }
    }
  });
  return new Map([...groups].sort((a, b) => rank(a[0]) - rank(b[0])).map(([group, charts]) => [group, sortedCharts(charts)]));
}

function ordered(phases) {
  return Object.keys(phases).sort((a, b) => (b === "train") - (a === "train") || a.localeCompare(b));
}

function rank(group) {
  return { Learning: 0, More: 2, "warm start": 3 }[group] ?? 1;
}

function sortedCharts(charts) {
  const place = (title) => (FIRST.includes(title) ? FIRST.indexOf(title) : FIRST.length);
  return new Map([...charts].sort((a, b) => place(a[1].title) - place(b[1].title) || a[1].title.localeCompare(b[1].title)));
}
