/** The frame around the pages: navigation, state of the connection, keyboard, signing in. */

import { useEffect, useState } from "preact/hooks";

import { ago } from "./core/format";
import { prefs, setPrefs, type Theme } from "./core/prefs";
import { go, link, useRoute, type Route } from "./core/route";
import { api, changed, live, session, setTenant, signOut, useNow, useRegistry } from "./core/state";
import { choice, LANGUAGES, t, tag, type Language, type Word } from "./core/words";
import { Fleet } from "./pages/fleet";
import { Instance } from "./pages/instance";
import { DependencyMap } from "./pages/map";
import { Overrides } from "./pages/overrides";
import { Overview } from "./pages/overview";
import { Service } from "./pages/service";
import { Services } from "./pages/services";
import { People } from "./pages/people";
import { SignIn } from "./pages/sign-in";
import { TryIt } from "./pages/try-it";
import { Asking, Dialog, Empty } from "./ui/parts";

const PAGES: [string, Word][] = [
  ["", "overview"],
  ["services", "services"],
  ["map", "map"],
  ["overrides", "overrides"],
  ["fleet", "fleet"],
  ["people", "people"],
  ["api", "tryIt"],
];

export function App() {
  useRegistry(250);
  const route = useRoute();
  const [open, setOpen] = useState<"help" | "menu" | undefined>();
  useKeys(route, () => setOpen("help"));
  useTitle(route);
  const signedOut = session.access === "signed-out";
  return (
    <div class="frame" key={choice.language}>
      <a class="skip" href="#content" onClick={skip}>
        {t("skip")}
      </a>
      <header class="top">
        <a class="brand" href="#/">
          <img src="./icon.svg" alt="" width="24" height="24" /> Muster
        </a>
        <nav aria-label="Muster">
          {PAGES.map(([path, word]) => (
            <a key={path} href={`#/${path}`} aria-current={pageOf(route) === path ? "page" : undefined}>
              {t(word)}
            </a>
          ))}
        </nav>
        <Connection />
        <button type="button" class="plain" aria-label={t("menu")} title={t("menu")} onClick={() => setOpen("menu")}>
          ⚙
        </button>
        <button type="button" class="plain" aria-label={t("help")} title={`${t("help")} (?)`} onClick={() => setOpen("help")}>
          ?
        </button>
      </header>
      <Banner />
      <main id="content" tabIndex={-1}>
        {signedOut && !session.ended ? null : session.access === "unknown" ? <Waiting /> : <Page route={route} />}
      </main>
      {signedOut && <SignIn />}
      {open === "help" && <Help onClose={() => setOpen(undefined)} />}
      {open === "menu" && <Menu onClose={() => setOpen(undefined)} />}
      <Asking />
    </div>
  );
}

function Page({ route }: { route: Route }) {
  switch (route.path[0]) {
    case undefined:
      return <Overview />;
    case "services":
      return <Services route={route} />;
    case "service":
      return <Service key={route.path[1]} id={route.path[1] ?? ""} route={route} />;
    case "instance":
      return <Instance key={route.path.join()} service={route.path[1] ?? ""} id={route.path[2] ?? ""} />;
    case "map":
      return <DependencyMap route={route} />;
    case "overrides":
      return <Overrides route={route} />;
    case "fleet":
      return <Fleet />;
    case "people":
      return <People />;
    case "api":
      return <TryIt route={route} />;
    default:
      return (
        <Empty>
          <h1>{t("notFound")}</h1>
          <a href="#/">{t("goHome")}</a>
        </Empty>
      );
  }
}

function Waiting() {
  return (
    <Empty>
      <h1>Muster</h1>
      <p role="status">{session.withoutPlanes ? t("planesGoneAtStart") : session.problem ? t("failed", session.problem) : t("connecting")}</p>
    </Empty>
  );
}

function pageOf(route: Route): string {
  const [first = ""] = route.path;
  return first === "service" || first === "instance" ? "services" : first;
}

function useTitle(route: Route) {
  const word = PAGES.find(([path]) => path === pageOf(route))?.[1];
  const title = word ? `${t(word)} – Muster` : "Muster";
  useEffect(() => {
    document.title = title;
  }, [title]);
}

function skip(event: Event) {
  event.preventDefault();
  document.getElementById("content")?.focus();
}

function useKeys(route: Route, help: () => void) {
  const page = route.path[0];
  useEffect(() => {
    const listener = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      const isWriting = /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
      if (event.ctrlKey || event.metaKey || event.altKey || isWriting || document.querySelector("dialog[open]")) return;
      if (event.key === "/") {
        event.preventDefault();
        const box = document.querySelector<HTMLInputElement>("input[type=search]");
        if (box) box.focus();
        else {
          go(link(["services"]));
          setTimeout(() => document.querySelector<HTMLInputElement>("input[type=search]")?.focus(), 50);
        }
      } else if (event.key === "?") {
        event.preventDefault();
        help();
      } else if (/^[1-9]$/.test(event.key)) {
        const path = PAGES[Number(event.key) - 1]?.[0];
        if (path !== undefined) go(`#/${path}`);
      }
    };
    addEventListener("keydown", listener);
    return () => removeEventListener("keydown", listener);
  }, [page]);
}

const MODES = {
  connecting: "connecting",
  live: "isLive",
  lost: "isLost",
  polling: "isPolling",
  denied: "isDenied",
} as const;

function Connection() {
  if (session.access === "unknown" || session.access === "signed-out") return <span class="mode" />;
  const mode = live.mode === "live" && !live.planes ? "lost" : live.mode;
  return (
    <span class={`mode ${mode}`} role="status" title={live.mode === "polling" ? t("pollingWhy") : live.problem}>
      {t(MODES[live.mode])}
    </span>
  );
}

/** Says what does not work just now. It lies over the page, so nothing jumps. */
function Banner() {
  const now = useNow();
  if (session.access === "signed-out") {
    return session.ended ? <div class="banner" role="alert">{t("sessionEnded")}</div> : null;
  }
  const heard = ago(live.heardAt || undefined, now, tag());
  if (live.mode === "denied") return <div class="banner" role="alert">{t("deniedWhy")}</div>;
  if (live.mode === "lost" && live.heardAt > 0) {
    return (
      <div class="banner" role="alert">
        {t("lostFor", heard)}{" "}
        <button type="button" class="small" onClick={() => live.retry()}>
          {t("retryNow")}
        </button>
      </div>
    );
  }
  const stale = live.staleAt > 0 && t("staleAnswers", ago(live.staleAt, now, tag()));
  if (!live.planes) {
    return (
      <div class="banner" role="alert">
        {t("planesGone", heard)} {stale}
      </div>
    );
  }
  if (stale) return <div class="banner" role="alert">{stale}</div>;
  return null;
}

function Help({ onClose }: { onClose: () => void }) {
  const keys: [string, string][] = [
    ["/", t("helpFind")],
    [`1 … ${PAGES.length}`, t("helpGo")],
    ["Tab ↑ ↓", t("helpMove")],
    ["Esc", t("helpClose")],
    ["?", t("helpHelp")],
  ];
  return (
    <Dialog title={t("helpTitle")} onClose={onClose}>
      <dl class="keys">
        {keys.map(([key, text]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
      <p class="quiet">{t("searchHint")}</p>
      <form method="dialog" class="buttons">
        <button class="main">{t("close")}</button>
      </form>
    </Dialog>
  );
}

function Menu({ onClose }: { onClose: () => void }) {
  const [domain, setDomain] = useState(api.tenant.domain);
  const [project, setProject] = useState(api.tenant.project);
  const themes: [Theme, Word][] = [
    ["auto", "themeAuto"],
    ["light", "themeLight"],
    ["dark", "themeDark"],
  ];
  return (
    <Dialog title={t("menu")} onClose={onClose}>
      <div class="form">
        <label>
          {t("language")}
          <select
            value={choice.language}
            onChange={(event) => {
              setPrefs({ language: event.currentTarget.value as Language });
              changed();
            }}
          >
            {Object.entries(LANGUAGES).map(([key, name]) => (
              <option key={key} value={key} lang={key}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <label>
          {t("theme")}
          <select
            value={prefs.theme}
            onChange={(event) => {
              setPrefs({ theme: event.currentTarget.value as Theme });
              changed();
            }}
          >
            {themes.map(([key, word]) => (
              <option key={key} value={key}>
                {t(word)}
              </option>
            ))}
          </select>
        </label>
        <label>
          {t("domain")}
          <input value={domain} maxLength={128} onInput={(event) => setDomain(event.currentTarget.value)} />
        </label>
        <label>
          {t("project")}
          <input value={project} maxLength={128} onInput={(event) => setProject(event.currentTarget.value)} />
        </label>
      </div>
      <div class="buttons">
        <button
          type="button"
          class="main"
          disabled={!domain.trim() || !project.trim()}
          onClick={() => {
            setTenant(domain.trim(), project.trim());
            onClose();
          }}
        >
          {t("change")}
        </button>
        <form method="dialog">
          <button>{t("close")}</button>
        </form>
        {session.access === "signed-in" && api.token && (
          <button
            type="button"
            onClick={() => {
              onClose();
              void signOut();
            }}
          >
            {t("signOut")} ({session.account})
          </button>
        )}
      </div>
    </Dialog>
  );
}
