// The theme is set before anything is drawn, so that no page flashes in the wrong one.
(() => {
  try {
    const theme = localStorage.getItem("agentrl-theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch (refused) {
    document.documentElement.removeAttribute("data-theme"); // storage is off: the browser's preference rules
  }
})();
