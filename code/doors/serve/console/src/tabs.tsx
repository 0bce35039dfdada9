// What several pages have: the place of a page in the console, and tabs.

/** The way to a page: the list that it belongs to, and its name. */
export function Crumbs({ list, name }: { list: "Pipelines" | "Sources" | "Tables"; name: string }) {
  return <nav class="crumbs" aria-label="Place"><a href={`#/${list.toLowerCase()}`}>{list}</a> <span aria-hidden="true">/</span> {name}</nav>;
}

/** Tabs in the order of `names`, each with its text. `now` is the chosen one, whose part has the id `panel`. The arrow keys choose its neighbours. */
export function Tabs<Tab extends string>({ label, panel, names, now, choose }: { label: string; panel: string; names: [Tab, string][]; now: Tab; choose: (tab: Tab) => void }) {
  const move = (event: KeyboardEvent, at: number) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? names.length - 1 : 0;
    if (!step) return;
    const [next] = names[(at + step) % names.length];
    choose(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label={label}>
      {names.map(([tab, text], at) => (
        <button
          role="tab"
          id={`tab-${tab}`}
          aria-selected={now === tab}
          aria-controls={panel}
          tabIndex={now === tab ? 0 : -1}
          onClick={() => choose(tab)}
          onKeyDown={(event) => move(event, at)}
        >
          {text}
        </button>
      ))}
    </div>
  );
}
