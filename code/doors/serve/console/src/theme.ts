// Light or dark: as the system is set, or as the user chose.
import { signal } from "@preact/signals";

const STORED = "buzz.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

/** True if the pages are dark. */
export const dark = signal(false);

function apply() {
  const chosen = localStorage.getItem(STORED);
  dark.value = chosen ? chosen === "dark" : system.matches;
  document.documentElement.dataset.theme = dark.value ? "dark" : "light";
}

system.addEventListener("change", apply);
apply();

/** Changes between light and dark. */
export function toggleTheme() {
  const next = dark.value ? "light" : "dark";
  if ((next === "dark") === system.matches) localStorage.removeItem(STORED);
  else localStorage.setItem(STORED, next);
  apply();
}
