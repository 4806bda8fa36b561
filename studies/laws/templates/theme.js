// Light, dark, or as the system has it. This is the only script of the page: everything else is drawn already.
"use strict";
const THEMES = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");
let theme = "auto";
function apply() {
  const dark = theme === "dark" || (theme === "auto" && system.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  button.textContent = `Colours: ${theme}`;
}
button.addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  apply();
});
system.addEventListener("change", apply);
button.hidden = false;
apply();
