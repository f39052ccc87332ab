// One small panel that says all about the token under the pointer.
import { element } from "./chart.js";
import { short } from "./scale.js";

const panel = () => document.getElementById("tooltip");

function row(name, value) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value));
}

export function explain(token) {
  const list = element("dl");
  if (token.piece !== null && token.piece !== undefined) list.append(element("div", {}, element("dt", {}, "text"), element("dd", {}, element("code", {}, JSON.stringify(token.piece)))));
  list.append(row("id", String(token.id)));
  if (token.sampled) {
    list.append(row("place", (token.index + 1).toLocaleString("en")));
    if (token.logprob !== null) list.append(row("probability", short(Math.exp(token.logprob))), row("log-probability", short(token.logprob)));
    list.append(row("advantage", token.advantage === null || token.advantage === undefined ? "not recorded" : short(token.advantage)));
    if (token.version !== undefined) list.append(row("policy version", String(token.version)));
  }
  return list;
}

export function hideTooltip() {
  panel().hidden = true;
}

function showAt(span, content) {
  const tip = panel();
  tip.replaceChildren(content);
  tip.hidden = false;
  const box = span.getClientRects()[0];
  const below = box.bottom + tip.offsetHeight + 10 < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(innerWidth - tip.offsetWidth - 8, box.left))}px`;
  tip.style.top = `${below ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px`;
}

// Arrow keys in a text of tokens go from one to the next.
function walk(event, content) {
  const box = event.target.closest("[data-sampled], [data-context]");
  const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
  if (!box || event.target !== box || by === undefined) return;
  event.preventDefault();
  const spans = [...box.querySelectorAll(".t")];
  const here = spans.findIndex((span) => span.classList.contains("at"));
  const next = spans[Math.min(spans.length - 1, Math.max(0, here + by))];
  if (!next) return;
  spans[here]?.classList.remove("at");
  next.classList.add("at");
  next.scrollIntoView({ block: "nearest" });
  requestAnimationFrame(() => showAt(next, content(next.token)));
}

export function startTooltip(place, content) {
  place.addEventListener("pointerover", (event) => {
    const span = event.target.closest(".t");
    if (span?.token) showAt(span, content(span.token));
    else hideTooltip();
  });
  place.addEventListener("pointerleave", hideTooltip);
  place.addEventListener("keydown", (event) => walk(event, content));
  place.addEventListener("focusout", hideTooltip);
  document.addEventListener("scroll", hideTooltip, { passive: true });
}
