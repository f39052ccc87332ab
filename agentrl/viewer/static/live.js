// Parts marked data-live follow the store: the page is fetched again and those parts are put in place of their old selves.
// A page rests while nobody looks at it, and slows down where nothing changes.
const QUICK = 2000; // milliseconds while a run is being written
const SLOW = 10000;
let known = "";

function busy() {
  return document.querySelector(".state.running") !== null;
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const text = await answer.text();
  if (text === known) return;
  known = text;
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(part.id);
    if (!next && part.dataset.live === "passing") return location.reload(); // what came in its place has scripts of its own
    if (!next || next.innerHTML === part.innerHTML) continue;
    keepState(part, next);
    part.replaceWith(next);
  }
  document.dispatchEvent(new CustomEvent("agentrl:refreshed"));
}

// What the user had ticked and where the focus was outlive the exchange.
function keepState(part, next) {
  const ticked = new Set([...part.querySelectorAll("input:checked")].map((box) => box.value));
  for (const box of next.querySelectorAll("input[type=checkbox]")) box.checked = ticked.has(box.value);
  if (!part.contains(document.activeElement)) return;
  const here = (node) => node.getAttribute("href") ?? node.value;
  const again = [...next.querySelectorAll("a[href], input")].find((node) => here(node) === here(document.activeElement));
  queueMicrotask(() => again?.focus({ preventScroll: true }));
}

export function startLive() {
  if (!document.querySelector("[data-live]")) return;
  const tick = async () => {
    if (document.visibilityState === "visible") {
      try {
        await refresh();
      } catch (lost) {
        console.info("the viewer's server does not answer:", lost.message);
      }
    }
    setTimeout(tick, busy() ? QUICK : SLOW);
  };
  setTimeout(tick, busy() ? QUICK : SLOW);
}
