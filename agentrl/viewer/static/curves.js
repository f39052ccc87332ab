// The curves of a page: groups of charts, the controls above them, and following runs that go on.
import { read, write } from "./address.js";
import { Chart, element } from "./chart.js";
import { Run, grouped } from "./series.js";

const QUICK = 2000; // milliseconds between looks at a run that is being written
const SLOW = 10000;
const charts = new Map();
let runs = [];
let place;

function options() {
  return { smooth: Number(read("smooth", "0")) || 0, log: read("log") === "1" };
}

function listed(name) {
  return new Set(read(name).split(",").filter(Boolean));
}

// Groups that are open: those that the address names, else the first.
function opened(groups) {
  const named = read("open", "\0");
  return named === "\0" ? new Set([...groups.keys()].slice(0, 1)) : listed("open");
}

function render() {
  const groups = grouped(runs, listed("hide"));
  const wanted = read("metric").toLowerCase();
  const open = opened(groups);
  place.querySelector("[data-waiting]")?.remove();
  const known = new Set();
  for (const [group, metrics] of groups) {
    const shown = [...metrics].filter(([, chart]) => !wanted || `${group}/${chart.title}`.toLowerCase().includes(wanted));
    if (!shown.length) continue;
    known.add(group);
    fill(section(group, groups), shown, wanted !== "" || open.has(group));
  }
  const order = [...groups.keys()];
  const nodes = [...place.querySelectorAll(".group")];
  const sorted = [...nodes].sort((a, b) => order.indexOf(a.dataset.group) - order.indexOf(b.dataset.group));
  if (sorted.some((node, index) => node !== nodes[index])) place.append(...sorted); // a group may come later than one that follows it
  for (const node of nodes) node.hidden = !known.has(node.dataset.group);
  empty(known.size === 0, wanted);
}

function empty(nothing, wanted) {
  place.querySelector("[data-nothing]")?.remove();
  if (!nothing) return;
  const text = wanted ? `No metric's name contains “${wanted}”.` : "No curve yet: a run's metrics appear here, step by step, once it has trained.";
  place.append(element("p", { class: "muted", "data-nothing": "" }, text));
}

function section(group, groups) {
  const found = [...place.querySelectorAll(".group")].find((node) => node.dataset.group === group);
  if (found) return found;
  const node = element("details", { class: "group", "data-group": group }, element("summary", {}, group, element("span")), element("div", { class: "charts" }));
  node.querySelector("summary").addEventListener("click", () => {
    const open = opened(groups);
    if (node.open) open.delete(group);
    else open.add(group);
    write({ open: [...open].join(",") || "none" });
    queueMicrotask(render);
  });
  place.append(node);
  return node;
}

function fill(node, shown, open) {
  node.querySelector("summary span").textContent = `${shown.length} ${shown.length === 1 ? "metric" : "metrics"}`;
  if (node.open !== open && read("metric")) node.open = open;
  else if (!node.dataset.begun) node.open = open;
  node.dataset.begun = "1";
  if (!open && !node.open) return;
  const grid = node.querySelector(".charts");
  const large = read("large");
  const nodes = shown.map(([id, { title, series }]) => {
    const chart = charts.get(id) ?? charts.set(id, new Chart(title, () => enlarge(id))).get(id);
    chart.node.classList.toggle("large", id === large);
    return [chart, series];
  });
  const wanted = nodes.map(([chart]) => chart.node);
  if (wanted.length !== grid.children.length || wanted.some((each, index) => grid.children[index] !== each)) grid.replaceChildren(...wanted);
  for (const [chart, series] of nodes) chart.show(series, options());
}

function enlarge(id) {
  write({ large: read("large") === id ? "" : id });
  render();
}

function legend() {
  const list = document.querySelector("[data-legend]");
  if (runs.length < 2) return;
  const hidden = listed("hide");
  list.replaceChildren(
    ...runs.map((run, index) => {
      const box = element("input", { type: "checkbox" });
      box.checked = !hidden.has(run.key);
      box.addEventListener("change", () => {
        const now = listed("hide");
        if (box.checked) now.delete(run.key);
        else now.add(run.key);
        write({ hide: [...now].join(",") });
        legend();
        render();
      });
      const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      line.setAttribute("viewBox", "0 0 26 10");
      const path = document.createElementNS(line.namespaceURI, "path");
      path.setAttribute("d", "M1 5H25");
      path.setAttribute("class", `s${index % 10}${index ? ` dash${index % 5}` : ""}`);
      path.setAttribute("stroke-width", "2.5");
      line.append(path);
      return element("li", { class: box.checked ? "" : "off" }, element("label", {}, box, line, run.name));
    }),
  );
}

function controls() {
  const form = document.querySelector("[data-controls]");
  const { metric, smooth, log } = form.elements;
  const output = form.querySelector("output");
  metric.value = read("metric");
  smooth.value = String(options().smooth);
  log.checked = options().log;
  output.textContent = smooth.value;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    output.textContent = smooth.value;
    write({ metric: metric.value, smooth: smooth.value === "0" ? "" : smooth.value, log: log.checked ? "1" : "" });
    render();
  });
}

// One run that cannot be read does not keep the others from being followed.
function lost(error) {
  console.info("the metrics cannot be read now:", error.message);
  return false;
}

async function follow() {
  if (document.visibilityState === "visible") {
    const fresh = await Promise.all(runs.map((run) => run.refresh().catch(lost)));
    if (fresh.some(Boolean)) {
      legend();
      render();
    }
  }
  setTimeout(follow, runs.some((run) => run.live) ? QUICK : SLOW);
}

export async function startCurves() {
  place = document.querySelector("[data-charts]");
  runs = document.querySelector("[data-curves]").dataset.curves.split(" ").filter(Boolean).map((key) => new Run(key));
  controls();
  try {
    await Promise.all(runs.map((run) => run.refresh()));
  } catch (lost) {
    place.querySelector("[data-waiting]").textContent = `The metrics cannot be read: ${lost.message}`;
    setTimeout(follow, SLOW);
    return;
  }
  legend();
  render();
  setTimeout(follow, runs.some((run) => run.live) ? QUICK : SLOW);
}
