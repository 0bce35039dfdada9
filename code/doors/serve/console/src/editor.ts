// The editor of SQL. It lives in a shadow root, where its styles are allowed without an exception from the policy of the page.
import { acceptCompletion, autocompletion, closeBrackets, closeBracketsKeymap, closeCompletion, completionKeymap } from "@codemirror/autocomplete";
import type { Completion, CompletionContext, CompletionResult } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab, toggleComment } from "@codemirror/commands";
import { sql } from "@codemirror/lang-sql";
import { bracketMatching, ensureSyntaxTree, HighlightStyle, indentUnit, syntaxHighlighting, syntaxTree } from "@codemirror/language";
import { setDiagnostics } from "@codemirror/lint";
import { Compartment, EditorState } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers, placeholder } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import type { Table } from "./api";
import { dialect, functions } from "./dialect";
import { quoted } from "./format";

const colours = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--syntax-keyword)", fontWeight: "600" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--syntax-text)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--syntax-number)" },
  { tag: [tags.lineComment, tags.blockComment], color: "var(--syntax-comment)", fontStyle: "italic" },
  { tag: [tags.typeName, tags.standard(tags.name), tags.function(tags.variableName)], color: "var(--syntax-type)" },
  { tag: [tags.operator, tags.punctuation], color: "var(--muted)" },
]);

const look = EditorView.theme({
  "&": { height: "100%", fontSize: "14px", backgroundColor: "transparent", color: "var(--ink)" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.6", overflow: "auto" },
  ".cm-content": { padding: "14px 0", caretColor: "var(--accent)" },
  ".cm-line": { padding: "0 16px 0 6px" },
  ".cm-cursor": { borderLeftColor: "var(--accent)", borderLeftWidth: "2px" },
  ".cm-gutters": { backgroundColor: "transparent", border: "none", color: "var(--muted)" },
  ".cm-lineNumbers .cm-gutterElement": { padding: "0 8px 0 16px", minWidth: "42px" },
  ".cm-activeLine": { backgroundColor: "var(--line-at)" },
  ".cm-selectionBackground, &.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground": {
    backgroundColor: "var(--selected)",
  },
  ".cm-matchingBracket, &.cm-focused .cm-matchingBracket": { backgroundColor: "var(--selected)", outline: "none" },
  ".cm-placeholder": { color: "var(--muted)" },
  ".cm-tooltip": {
    backgroundColor: "var(--raised)",
    color: "var(--ink)",
    border: "1px solid var(--border)",
    borderRadius: "8px",
    boxShadow: "var(--shadow)",
    overflow: "hidden",
  },
  ".cm-tooltip.cm-tooltip-autocomplete > ul": { fontFamily: "var(--mono)", fontSize: "13px", maxHeight: "16em" },
  ".cm-tooltip.cm-tooltip-autocomplete > ul > li": { padding: "3px 10px", lineHeight: "1.5" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { backgroundColor: "var(--accent)", color: "var(--on-accent)" },
  ".cm-completionDetail": { fontStyle: "normal", opacity: "0.75", marginLeft: "1.5em" },
  ".cm-completionMatchedText": { textDecoration: "none", fontWeight: "700" },
  ".cm-diagnostic": { borderLeft: "none", padding: "8px 12px", fontFamily: "var(--sans)", fontSize: "13px", maxWidth: "520px" },
  ".cm-lintRange-error": { backgroundImage: "none", borderBottom: "2px wavy var(--bad)", textDecoration: "underline wavy var(--bad)" },
});

/** Returns the completions of the columns of the tables that the text names; of all tables if it names none. */
function columnsOf(tables: Table[]) {
  return (context: CompletionContext): CompletionResult | null => {
    const word = context.matchBefore(/[\w"]+/);
    if (!word && !context.explicit) return null;
    if (context.matchBefore(/\.[\w"]*/)) return null;
    if (/String|Comment/.test(syntaxTree(context.state).resolveInner(context.pos, -1).name)) return null;
    const words = new Set(context.state.doc.toString().toLowerCase().split(/[^\p{L}\p{N}_$]+/u));
    const named = tables.filter((table) => words.has(table.name.toLowerCase()));
    const options = new Map<string, Completion>();
    for (const table of named.length > 0 ? named : tables.slice(0, 50)) {
      for (const column of table.columns ?? []) {
        options.set(`${column.name} ${table.name}`, {
          label: column.name,
          apply: quoted(column.name),
          detail: named.length === 1 ? column.type : `${table.name} · ${column.type}`,
          type: "property",
          boost: 2,
        });
      }
    }
    return { from: word?.from ?? context.pos, options: [...options.values()], validFor: /^[\w"]*$/ };
  };
}

function language(tables: Table[]) {
  const schema: Record<string, Completion[]> = {};
  for (const table of tables) {
    schema[table.name] = (table.columns ?? []).map((column) => ({
      label: column.name,
      apply: quoted(column.name),
      detail: column.type,
      type: "property",
    }));
  }
  const support = sql({ dialect, schema, upperCaseKeywords: true });
  return [support, dialect.language.data.of({ autocomplete: columnsOf(tables) }), dialect.language.data.of({ autocomplete: functions })];
}

export type Actions = {
  change: (text: string) => void;
  run: () => void;
  /** The name of the editor for those who do not see it. */
  label?: string;
  /** The text of an empty editor. */
  hint?: string;
};

/** The editor in a page. */
export class Editor {
  private readonly view: EditorView;
  private readonly languages = new Compartment();

  constructor(host: HTMLElement, text: string, actions: Actions) {
    const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
    const run = () => {
      closeCompletion(this.view);
      actions.run();
      return true;
    };
    this.view = new EditorView({
      root,
      parent: root,
      state: EditorState.create({
        doc: text,
        extensions: [
          lineNumbers(),
          history(),
          drawSelection(),
          bracketMatching(),
          closeBrackets(),
          highlightActiveLine(),
          indentUnit.of("  "),
          EditorView.lineWrapping,
          syntaxHighlighting(colours),
          look,
          autocompletion({ icons: false }),
          placeholder(actions.hint ?? "SELECT … FROM a table"),
          this.languages.of(language([])),
          EditorView.contentAttributes.of({ "aria-label": actions.label ?? "SQL statement", tabindex: "0", spellcheck: "false", autocapitalize: "off" }),
          keymap.of([
            { key: "Mod-Enter", run },
            { key: "Shift-Enter", run },
            { key: "Mod-/", run: toggleComment },
            { key: "Tab", run: acceptCompletion },
            // Escape, then Tab leaves the editor, as the list of shortcuts says.
            ...closeBracketsKeymap,
            ...completionKeymap,
            ...defaultKeymap,
            ...historyKeymap,
            indentWithTab,
          ]),
          EditorView.updateListener.of((update) => {
            if (update.docChanged) actions.change(update.state.doc.toString());
          }),
        ],
      }),
    });
  }

  /** Completes the names of `tables` and of their columns. */
  know(tables: Table[]) {
    this.view.dispatch({ effects: this.languages.reconfigure(language(tables)) });
  }

  /** Replaces the text. */
  set(text: string) {
    const { doc } = this.view.state;
    if (doc.toString() !== text) this.view.dispatch({ changes: { from: 0, to: doc.length, insert: text } });
  }

  /** Inserts `text` in the place of the selection. */
  insert(text: string) {
    this.view.dispatch(this.view.state.replaceSelection(text));
    this.view.focus();
  }

  focus() {
    this.view.focus();
  }

  /** Returns the statement to run, and where it starts: the selection; else the statement at the cursor, if there are several. */
  statement(): { sql: string; from: number } {
    const { state } = this.view;
    const { main } = state.selection;
    if (!main.empty && state.sliceDoc(main.from, main.to).trim()) {
      return { sql: state.sliceDoc(main.from, main.to), from: main.from };
    }
    const statements = this.statements();
    if (statements.length < 2) return { sql: state.doc.toString(), from: 0 };
    const at = statements.find((one) => main.head <= one.to) ?? statements[statements.length - 1];
    return { sql: state.sliceDoc(at.from, at.to).replace(/;\s*$/, ""), from: at.from };
  }

  /** Returns the places of the statements; none if the text is too long to be parsed in a second. */
  statements(): { from: number; to: number }[] {
    // The tree that is drawn may end before the text does.
    const tree = ensureSyntaxTree(this.view.state, this.view.state.doc.length, 1000);
    return tree?.topNode.getChildren("Statement").map(({ from, to }) => ({ from, to })) ?? [];
  }

  /** Marks the place that `message` names in the statement that starts at `from`; "" removes all marks. */
  mark(message: string, from: number) {
    const { state } = this.view;
    const named = /Line: (\d+), Column: (\d+)/.exec(message);
    const unknown = /(?:column|table|function) `([^`]+)` does not exist/i.exec(message);
    const length = state.doc.length;
    let start = -1;
    let end = -1;
    if (named) {
      const first = state.doc.lineAt(Math.min(from, length));
      const number = Math.min(first.number + Number(named[1]) - 1, state.doc.lines);
      const line = state.doc.line(number);
      const shift = number === first.number ? from - first.from : 0;
      start = Math.min(line.from + shift + Number(named[2]) - 1, line.to);
      end = start + (/^[\w"]+|^\S/.exec(state.sliceDoc(start, line.to))?.[0].length ?? 1);
    } else if (unknown) {
      start = state.doc.toString().toLowerCase().indexOf(unknown[1].toLowerCase(), from);
      end = start + unknown[1].length;
    } else if (/found: EOF/.test(message)) {
      end = state.doc.toString().trimEnd().length;
      start = Math.max(end - 1, 0);
    }
    const marks = message && start >= 0 ? [{ from: start, to: Math.min(Math.max(end, start + 1), length), severity: "error" as const, message }] : [];
    this.view.dispatch(setDiagnostics(state, marks));
  }

  destroy() {
    this.view.destroy();
  }
}
