// The policy's tokens, coloured by advantage or by probability: fetched when they are asked for, a turn at a time as it
// comes into view, and recoloured without fetching again.
import { fetchJson, read, write } from "./address.js";
import { element } from "./chart.js";
import { explain, hideTooltip, startTooltip } from "./tooltip.js";

const MODES = ["text", "advantage", "probability"];
const STEPS = 10;
let base;
let largest;
let mode = "text";
const loaded = new Map();

// Tenth of the scale that a token's colour shows, as a class; nothing where there is no value.
function colour(token) {
  if (mode === "advantage") {
    if (token.advantage === null || token.advantage === undefined || !largest) return "";
    const step = Math.min(STEPS, Math.ceil((STEPS * Math.abs(token.advantage)) / largest));
    return step === 0 ? "" : `${token.advantage > 0 ? "p" : "m"}${step}`;
  }
  if (token.logprob === null || token.logprob === undefined) return "";
  const step = Math.round(STEPS * (1 - Math.min(1, Math.exp(token.logprob))));
  return step === 0 ? "" : `r${step}`;
}

// A piece as it stands in the text, its line ends marked; an id where there is no text.
function inked(span, token) {
  if (token.piece === null || token.piece === undefined) {
    span.classList.add("id");
    span.textContent = token.id;
  } else if (token.piece.includes("\n")) {
    for (const part of token.piece.split(/(\n)/)) {
      if (part === "\n") span.append(element("span", { class: "nl", "aria-hidden": "true" }, "↵"), "\n");
      else if (part) span.append(part);
    }
  } else {
    span.textContent = token.piece === "" ? "·" : token.piece;
  }
}

function spanOf(token) {
  const span = element("span", { class: `t ${token.sampled ? colour(token) : ""}` });
  inked(span, token);
  span.token = token;
  return span;
}

async function load(box, turn, context) {
  const state = loaded.get(box) ?? loaded.set(box, { tokens: 0, busy: false }).get(box);
  if (state.busy) return;
  state.busy = true;
  const answer = await fetchJson(`${base}/tokens/${turn}?start=${state.tokens}${context ? "&context=1" : ""}`).finally(() => (state.busy = false));
  box.querySelector("p.more")?.remove();
  if (answer.pieces === null && state.tokens === 0 && answer.total) {
    box.append(element("p", {}, "No tokenizer that gives these words back is on this disk; the numbers are the token ids."));
  }
  answer.ids.forEach((id, index) => {
    const token = { id, piece: answer.pieces?.[index], sampled: !context };
    if (!context) Object.assign(token, { logprob: answer.logprobs[index], advantage: answer.advantages?.[index], version: answer.versions?.[index], index: state.tokens + index });
    box.append(spanOf(token));
  });
  state.tokens += answer.ids.length;
  if (state.tokens < answer.total) {
    const button = element("button", { type: "button" }, `${(answer.total - state.tokens).toLocaleString("en")} more tokens`);
    button.addEventListener("click", () => load(box, turn, context).catch((error) => (button.textContent = error.message)));
    box.append(element("p", { class: "more" }, button));
  }
}

// The text stands until the tokens are there: the first tokenizer takes seconds to load.
function show(turn) {
  const box = turn.querySelector("[data-sampled]");
  const swap = () => {
    turn.querySelector("[data-text]").hidden = mode !== "text";
    box.hidden = mode === "text";
  };
  const state = loaded.get(box);
  if (mode !== "text" && state?.busy && !state.tokens) return;
  if (mode !== "text" && !state) {
    load(box, turn.dataset.turn, false).catch((error) => (box.textContent = `The tokens cannot be read: ${error.message}`)).finally(swap);
    return;
  }
  swap();
  for (const span of box.querySelectorAll(".t")) span.className = `t ${span.classList.contains("id") ? "id " : ""}${colour(span.token)}`;
}

const near = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => show(entry.target)), { rootMargin: "600px" });

// Links to other episodes and other turns keep the colours.
function carry(colours) {
  for (const link of document.querySelectorAll(".pager a, .between a, .band a[href^='?'], .band a[href^='/'], aside table a, .tree a")) {
    const address = new URL(link.getAttribute("href"), location.href);
    if (colours === "text") address.searchParams.delete("tokens");
    else address.searchParams.set("tokens", colours);
    link.setAttribute("href", `${address.pathname}${address.search}${address.hash}`);
  }
}

function choose(next) {
  mode = next;
  write({ tokens: mode === "text" ? "" : mode });
  carry(mode);
  hideTooltip();
  legend();
  near.disconnect();
  for (const turn of document.querySelectorAll("[data-turn]")) {
    if (mode === "text" || loaded.has(turn.querySelector("[data-sampled]"))) show(turn);
    else near.observe(turn);
  }
}

function legend() {
  const scale = document.querySelector("[data-scale]");
  const swatches = (classes) => element("span", { class: "ramp", "aria-hidden": "true" }, ...classes.map((name) => element("i", { class: name })));
  const upwards = [...Array(STEPS)].map((_, index) => index + 1);
  scale.replaceChildren();
  if (mode === "advantage") {
    const end = Number(largest.toPrecision(3));
    scale.append(`−${end}`, swatches([...upwards.map((step) => `m${step}`).reverse(), "", ...upwards.map((step) => `p${step}`)]), `+${end}`);
  } else if (mode === "probability") {
    scale.append("0", swatches([...upwards.map((step) => `r${step}`).reverse(), ""]), "1");
  }
}

export function startTokens() {
  const place = document.querySelector("[data-tokens]");
  base = place.dataset.tokens;
  largest = Number(place.dataset.largest);
  for (const details of document.querySelectorAll("details.ids")) {
    details.addEventListener("toggle", () => {
      const box = details.querySelector("[data-context]");
      if (!box || !details.open || loaded.has(box)) return;
      box.append(element("p", {}, "New in the context of this turn:"));
      load(box, details.closest("[data-turn]").dataset.turn, true).catch((error) => (box.textContent = error.message));
    });
  }
  startTooltip(place, explain);
  const form = document.querySelector("[data-modes]");
  if (!form) return;
  form.addEventListener("change", (event) => choose(event.target.value));
  const wanted = MODES.includes(read("tokens")) ? read("tokens") : form.elements.tokens.value; // chosen before this script ran
  const input = form.querySelector(`input[value=${wanted}]`);
  if (input.disabled) return carry(wanted); // this episode has no such colours, the next one may
  input.checked = true;
  if (wanted !== "text") choose(wanted);
}
