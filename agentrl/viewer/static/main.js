// What every page has (theme, keys, live parts, long texts), and what single pages have.
import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startTexts } from "./texts.js";
import { startTheme } from "./toggle.js";

startTheme();
startTexts();
startKeys();
if (document.querySelector("[data-choose]")) (await import("./choose.js")).startChoosing();
if (document.querySelector("[data-curves]")) (await import("./curves.js")).startCurves();
if (document.querySelector("[data-tokens]")) (await import("./tokens.js")).startTokens();
startLive();
document.documentElement.dataset.ready = "1";
