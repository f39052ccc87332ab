// The keyboard: j and k walk through the links marked data-row, arrows turn pages, the rest is in the help dialog.
import { nextTheme } from "./toggle.js";

function rows() {
  return [...document.querySelectorAll("[data-row]")].filter((row) => row.offsetParent !== null);
}

function walk(by) {
  const all = rows();
  if (!all.length) return;
  const here = all.findIndex((row) => row === document.activeElement || row.closest("tr, .turn")?.contains(document.activeElement));
  const at = here < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, here + by));
  all[at].focus({ preventScroll: true });
  (all[at].closest(".turn") ?? all[at]).scrollIntoView({ block: all[at].closest(".turn") ? "start" : "nearest" });
}

function follow(selector) {
  document.querySelector(selector)?.click();
}

function focusFilter() {
  const field = document.querySelector("[data-filter] input[type=search], [data-filter-input]");
  field?.focus();
  field?.select();
}

function choose() {
  const box = document.activeElement?.closest("tr")?.querySelector("input[type=checkbox]");
  if (box) box.click();
}

function nextMode() {
  const modes = [...document.querySelectorAll("[data-modes] input:not(:disabled)")];
  if (modes.length) modes[(modes.findIndex((mode) => mode.checked) + 1) % modes.length].click();
}

function up() {
  const links = document.querySelectorAll(".crumbs a");
  if (links.length) links[links.length - 1].click();
}

const KEYS = {
  j: () => walk(1),
  k: () => walk(-1),
  ArrowLeft: () => follow(".pager a[rel=prev]"),
  ArrowRight: () => follow(".pager a[rel=next]"),
  "/": focusFilter,
  x: choose,
  c: () => follow("[data-compare]:not(:disabled)"),
  t: nextMode,
  u: up,
  d: nextTheme,
  "?": () => document.querySelector("dialog.help").showModal(),
};

// Up and down walk too, but only from a row: elsewhere they scroll.
const FROM_A_ROW = { ArrowDown: () => walk(1), ArrowUp: () => walk(-1) };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (document.querySelector("dialog[open]")) return;
  const field = event.target.closest("input, select, textarea, [contenteditable]");
  if (field && !["checkbox", "radio"].includes(field.type)) {
    if (event.key === "Escape") field.blur();
    return;
  }
  if (field?.type === "radio" && event.key.startsWith("Arrow")) return;
  const inRow = event.target.closest("[data-row]") ? FROM_A_ROW[event.key] : undefined;
  const action = KEYS[event.key] ?? inRow;
  if (!action) return;
  event.preventDefault();
  action();
}

export function startKeys() {
  document.addEventListener("keydown", onKey);
  document.querySelector("[data-help]").addEventListener("click", KEYS["?"]);
  for (const field of document.querySelectorAll("[data-filter] select, [data-filter] input[type=checkbox]")) {
    field.addEventListener("change", () => field.form.requestSubmit());
  }
  for (const form of document.querySelectorAll("[data-filter]")) form.addEventListener("formdata", dropEmpty);
}

// Fields that say nothing stay out of the address. The fields themselves are left alone: the browser may show this very
// page again when somebody goes back.
function dropEmpty({ formData }) {
  for (const [name, value] of [...formData]) {
    if (value === "" || (name === "size" && value === "50")) formData.delete(name);
  }
}
