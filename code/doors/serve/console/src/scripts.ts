// The script in the editor of pipelines.
import { signal } from "@preact/signals";

const STORED = "buzz.script";

/** The script in the editor, which a reload keeps. */
export const script = signal(localStorage.getItem(STORED) ?? "");

/** The pipeline whose script is edited, or "" for a new one. */
export const edited = signal("");

export function setScript(text: string, pipeline = "") {
  edited.value = pipeline;
  keepScript(text);
}

export function keepScript(text: string) {
  script.value = text;
  try {
    localStorage.setItem(STORED, text.slice(0, 500_000));
  } catch {
    // The storage is full or forbidden: a reload forgets the text.
  }
}
