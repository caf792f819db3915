import { render } from "preact";

import { App } from "./app";
import { loadPrefs } from "./core/prefs";
import { begin } from "./core/state";
import "./style.css";

loadPrefs();
const root = document.getElementById("app");
if (root) render(<App />, root);
void begin();
