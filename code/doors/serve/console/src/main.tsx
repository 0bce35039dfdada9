import "uplot/dist/uPlot.min.css";
import "./style.css";
import "./streams.css";
// The frame of the pages: navigation, the question for the key, shortcuts.
import { signal } from "@preact/signals";
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { forgetKey, key, refused, useKey } from "./api";
import { Ask } from "./ask";
import { History } from "./history";
import { PipelinePage } from "./pipeline";
import { Pipelines } from "./pipelines";
import { Query } from "./query";
import { Script } from "./script";
import { Sources } from "./sources";
import { readTables } from "./state";
import { Tables } from "./tables";
import { dark, toggleTheme } from "./theme";

const route = signal(location.hash);
addEventListener("hashchange", () => {
  route.value = location.hash;
});

const PAGES = [
  { name: "Ask", path: "#/ask" },
  { name: "History", path: "#/history" },
  { name: "Tables", path: "#/tables" },
  { name: "Sources", path: "#/sources" },
  { name: "Pipelines", path: "#/pipelines" },
];

function Page() {
  const [page, ...rest] = route.value.replace(/^#\/?/, "").split("/");
  const name = decodedPart(rest.join("/"));
  useEffect(() => {
    const named = (list: string) => (name && name !== "+" ? name : list);
    const title = { query: "Query", history: "History", tables: named("Tables"), sources: named("Sources"), pipelines: named("Pipelines") }[page] ?? "Ask";
    document.title = `${title} · Buzz`;
    // A reader of the page starts at its top.
    if (document.activeElement === document.body) document.querySelector("main")?.scrollTo(0, 0);
  }, [route.value]);
  switch (page) {
    case "query": return <Query id={name} key={name} />;
    case "history": return <History />;
    case "tables": return <Tables name={name} />;
    case "sources": return <Sources name={name} />;
    case "pipelines": return name === "+" ? <Script /> : name ? <PipelinePage id={name} key={name} /> : <Pipelines />;
    default: return <Ask />;
  }
}

function decodedPart(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function App() {
  const [help, setHelp] = useState(false);
  useEffect(() => {
    if (key.value) void readTables();
  }, [key.value]);
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const path = event.composedPath()[0] as HTMLElement;
      const writing = path.isContentEditable || /^(INPUT|SELECT|TEXTAREA)$/.test(path.tagName);
      if (event.altKey && /^Digit[1-5]$/.test(event.code)) {
        location.hash = PAGES[Number(event.code.slice(-1)) - 1].path;
        event.preventDefault();
      } else if (event.key === "?" && !writing) {
        setHelp(true);
        event.preventDefault();
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
  if (!key.value) return <Login />;
  const at = route.value.split("/")[1] || "ask";
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.querySelector<HTMLElement>("main")?.focus(); }}>Skip to the page</a>
      <header class="top">
        <a class="brand" href="#/ask" aria-label="Buzz, ask"><Mark /> Buzz</a>
        <nav aria-label="Pages">
          {PAGES.map(({ name, path }) => {
            const is = path === `#/${at}` || (at === "query" && name === "History");
            return <a href={path} aria-current={is ? "page" : undefined}>{name}</a>;
          })}
        </nav>
        <span class="space" />
        <button class="icon" onClick={() => setHelp(true)} aria-label="Keyboard shortcuts" title="Keyboard shortcuts (?)">?</button>
        <button class="icon" onClick={toggleTheme} aria-label={dark.value ? "Light colours" : "Dark colours"} title={dark.value ? "Light colours" : "Dark colours"}>
          {dark.value ? <Sun /> : <Moon />}
        </button>
        <button class="icon" onClick={forgetKey} aria-label="Forget the key" title="Forget the key">
          <Leave />
        </button>
      </header>
      <main id="main" tabIndex={-1}><Page /></main>
      {help && <Help close={() => setHelp(false)} />}
    </>
  );
}

function Login() {
  const [value, setValue] = useState("");
  return (
    <main class="login">
      <form onSubmit={(event) => { event.preventDefault(); if (value.trim()) useKey(value.trim()); }}>
        <h1><Mark /> Buzz</h1>
        <p>Ask your tables in SQL. <code>buzz serve</code> printed a key, and a link that has it.</p>
        <label>
          Key
          <input type="password" autocomplete="current-password" value={value} onInput={(event) => setValue(event.currentTarget.value)} autofocus />
        </label>
        {refused.value && <p class="fault" role="alert">The server does not accept this key. It makes a new one when it starts, unless BUZZ_KEY or --keys sets it.</p>}
        <button class="primary" disabled={!value.trim()}>Open</button>
        <small>Kept until this tab is closed.</small>
      </form>
    </main>
  );
}

function Help({ close }: { close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const keys = [
    ["Ctrl or ⌘ + Enter", "run the selection, or the statement at the cursor; preview a script"],
    ["Escape", "cancel the query or the preview that runs; then Tab leaves the editor"],
    ["Ctrl + Space", "complete a name"],
    ["Ctrl or ⌘ + /", "make a comment"],
    ["Arrows, Page Up and Down, Home, End", "move in the rows; with Ctrl to the first or last"],
    ["Ctrl or ⌘ + C", "copy the value"],
    ["Alt + 1 to 5", "Ask, History, Tables, Sources, Pipelines"],
    ["?", "this list"],
  ];
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="help" onClick={(event) => event.target === dialog.current && dialog.current?.close()}>
      <h2 id="help">Keyboard</h2>
      <dl class="keys">{keys.map(([name, does]) => <div><dt><kbd>{name}</kbd></dt><dd>{does}</dd></div>)}</dl>
      <p class="note"><a href="licences.txt" target="_blank" rel="noreferrer">Licences of the libraries</a></p>
      <form method="dialog"><button class="primary" autofocus>Close</button></form>
    </dialog>
  );
}

/** A cell of a comb. */
function Mark() {
  return (
    <svg class="mark" viewBox="0 0 24 24" aria-hidden="true">
      <path class="cell" d="M12 1.6 21 6.8v10.4l-9 5.2-9-5.2V6.8z" />
      <path class="wave" d="M7 13.2l2.2-3.4 2.6 5 2.4-6.2 1.8 4.6h1.4" />
    </svg>
  );
}

function Sun() {
  return <svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="3.6" /><path d="M10 1.5v2M10 16.5v2M1.5 10h2M16.5 10h2M4 4l1.4 1.4M14.6 14.6 16 16M4 16l1.4-1.4M14.6 5.4 16 4" /></svg>;
}

function Moon() {
  return <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M16.5 12.4A7 7 0 0 1 7.6 3.5a7 7 0 1 0 8.9 8.9z" /></svg>;
}

function Leave() {
  return <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M8 3H4v14h4M13 6.5 16.5 10 13 13.5M16.2 10H8" /></svg>;
}

render(<App />, document.getElementById("app")!);
