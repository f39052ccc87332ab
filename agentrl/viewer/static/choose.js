// Choosing runs to compare: the button says how many there are and wakes at two. The choice stands in the address, so
// that going back finds it again.
import { write } from "./address.js";

function boxes() {
  return [...document.querySelectorAll("[data-choose] input[name=run]")];
}

function show() {
  const chosen = boxes().filter((box) => box.checked);
  const button = document.querySelector("[data-compare]");
  button.disabled = chosen.length < 2;
  button.textContent = chosen.length ? `Compare ${chosen.length} runs` : "Compare the chosen";
  write({ chosen: chosen.map((box) => box.value).join(",") });
}

export function startChoosing() {
  const wanted = new Set((new URLSearchParams(location.search).get("chosen") ?? "").split(","));
  for (const box of boxes()) box.checked = box.checked || wanted.has(box.value);
  document.querySelector("[data-choose]").addEventListener("change", show);
  document.addEventListener("agentrl:refreshed", show);
  show();
}
