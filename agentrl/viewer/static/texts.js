// Long texts: the link in a gap loads the next piece of it, until the gap is closed. Without this script the same link
// opens the whole text.
import { fetchJson } from "./address.js";

async function more(link) {
  const base = link.getAttribute("href").replace(/^\/runs\//, "/data/");
  const start = Number(link.dataset.start);
  const end = Number(link.dataset.end);
  link.textContent = "loading …";
  const { text, next } = await fetchJson(`${base}?start=${start}&end=${end}`);
  const gap = link.closest(".cut");
  gap.before(document.createTextNode(text));
  if (next === null || next >= end) return gap.remove();
  link.dataset.start = next;
  link.textContent = `${(end - next).toLocaleString("en")} characters are left out here: load more`;
}

export function startTexts() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-more]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    more(link).catch((error) => (link.textContent = `could not be loaded (${error.message}): try again`));
  });
}
