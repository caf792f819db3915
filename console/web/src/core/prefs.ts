/** The viewer's choice of language and theme, which is kept for the next time. */

import { choice, preferred, type Language } from "./words";

export type Theme = "auto" | "light" | "dark";

const KEY = "muster.console";

export const prefs: { theme: Theme } = { theme: "auto" };

export function loadPrefs(): void {
  let stored: { theme?: string; language?: string } = {};
  try {
    stored = JSON.parse(localStorage.getItem(KEY) ?? "{}") as typeof stored;
  } catch {
    // A browser may keep nothing; then the system decides.
  }
  choice.language =
    stored.language === "en" || stored.language === "zh" ? stored.language : preferred(navigator.languages);
  prefs.theme = stored.theme === "light" || stored.theme === "dark" ? stored.theme : "auto";
  show();
}

export function setPrefs(next: { theme?: Theme; language?: Language }): void {
  if (next.theme) prefs.theme = next.theme;
  if (next.language) choice.language = next.language;
  try {
    localStorage.setItem(KEY, JSON.stringify({ theme: prefs.theme, language: choice.language }));
  } catch {
    // As above.
  }
  show();
}

function show(): void {
  const root = document.documentElement;
  root.lang = choice.language;
  root.style.colorScheme = prefs.theme === "auto" ? "light dark" : prefs.theme;
}
