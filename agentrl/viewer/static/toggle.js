// Auto, dark, light: kept by the browser, so that it holds for every page.
const NEXT = { auto: "dark", dark: "light", light: "auto" };

function current() {
  return document.documentElement.dataset.theme ?? "auto";
}

export function nextTheme() {
  const theme = NEXT[current()];
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("agentrl-theme", theme);
  } catch (refused) {
    console.info("the theme cannot be kept:", refused.message);
  }
  show();
}

function show() {
  const button = document.querySelector("[data-theme-toggle]");
  button.querySelector("[data-theme-name]").textContent = current();
  button.setAttribute("aria-label", `Theme: ${current()}`);
}

export function startTheme() {
  document.querySelector("[data-theme-toggle]").addEventListener("click", nextTheme);
  show();
}
