//! Edits statements on a terminal.
//!
//! Libraries for this (rustyline, reedline) change features of `libc` and `rustix`, on which Arrow, Tokio and DataFusion
//! depend: see `docs/decisions/0050`. `keys` reads keys, `buffer` is the edited text, `screen` draws it, `history` keeps
//! statements.

mod buffer;
mod history;
mod keys;
mod screen;

use std::io::{self, Write};

use rustix::termios::{OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use self::buffer::Buffer;
pub(super) use self::history::{History, place};
use self::keys::{Key, Keys};
use self::screen::{Drawing, Screen};
use crate::terminal::terminal_size;

const PROMPT: &str = "buzz> ";
const MORE: &str = "   -> ";

/// Maximum number of completions that are listed.
const LISTED_MAX: usize = 100;

/// Knowledge about the text: its end and its names.
pub(super) trait Language {
    /// Returns true if Enter ends the text, and false if it begins a new line.
    fn is_complete(&self, text: &str) -> bool;

    /// Returns the completions of the last word of `before`, and the index of the character at which that word starts.
    fn completions(&self, before: &str) -> (usize, Vec<String>);
}

/// The text that was entered, or the reason why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered {
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the end of the input.
    End,
}

/// Edits one text after the other.
#[derive(Debug)]
pub(super) struct Editor {
    keys: Keys,
    history: History,
}

impl Editor {
    pub(super) fn new(history: History) -> Self {
        Self { keys: Keys::default(), history }
    }

    /// Reads a text from the terminal and adds it to the history. Blocks.
    ///
    /// # Errors
    /// If the terminal cannot be read or written.
    pub(super) fn read(&mut self, language: &dyn Language) -> io::Result<Entered> {
        let raw = Raw::enter()?;
        let mut edit = Edit {
            buffer: Buffer::default(),
            screen: Screen::default(),
            place: self.history.len(),
            draft: String::new(),
            listed: false,
        };
        let entered = edit.run(&mut self.keys, &self.history, language);
        drop(raw);
        if let Ok(Entered::Text(text)) = &entered {
            self.history.add(text.trim_end());
        }
        entered
    }
}

/// Sends each key at once and without echo, as long as it exists.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        // Blocks until there is one byte.
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        // Marks pasted text, so that the ends of its lines are not Enter.
        out(b"\x1b[?2004h")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be closed.
        _ = out(b"\x1b[?2004l\r\n");
        _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

fn out(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// One text while it is edited.
struct Edit {
    buffer: Buffer,
    screen: Screen,
    /// Index in the history; its length for the new text.
    place: usize,
    /// The new text, while an entry of the history is edited.
    draft: String,
    /// True if the last key was a Tab that completed nothing.
    listed: bool,
}

impl Edit {
    fn run(&mut self, keys: &mut Keys, history: &History, language: &dyn Language) -> io::Result<Entered> {
        loop {
            self.draw(PROMPT, MORE)?;
            let Some(key) = keys.next(io::stdin())? else {
                return Ok(Entered::End);
            };
            let was_tab = std::mem::take(&mut self.listed);
            match key {
                Key::Enter if language.is_complete(&self.buffer.text()) => {
                    self.finish()?;
                    return Ok(Entered::Text(self.buffer.text()));
                }
                Key::Ctrl('c') => {
                    self.finish()?;
                    out(b"^C")?;
                    return Ok(Entered::Interrupted);
                }
                Key::Ctrl('d') if self.buffer.is_empty() => return Ok(Entered::End),
                Key::Tab => self.complete(language, was_tab)?,
                Key::Ctrl('r') => self.search(keys, history)?,
                Key::Ctrl('l') => {
                    out(b"\x1b[H\x1b[2J")?;
                    self.screen.leave();
                }
                Key::Up if !self.buffer.up() => self.recall(history, self.place.checked_sub(1)),
                Key::Down if !self.buffer.down() => self.recall(history, Some(self.place + 1)),
                Key::Ctrl('p') => self.recall(history, self.place.checked_sub(1)),
                Key::Ctrl('n') => self.recall(history, Some(self.place + 1)),
                other => apply(&mut self.buffer, other),
            }
        }
    }

    fn draw(&mut self, prompt: &str, more: &str) -> io::Result<()> {
        let text = self.buffer.text();
        let drawing = Drawing { text: &text, cursor: self.buffer.cursor(), prompt, more };
        self.screen.draw(&drawing, terminal_size(), &mut io::stdout().lock())
    }

    /// Draws the text with the cursor at its end.
    fn finish(&mut self) -> io::Result<()> {
        let text = self.buffer.text();
        self.buffer.set(&text);
        self.draw(PROMPT, MORE)
    }

    fn recall(&mut self, history: &History, index: Option<usize>) {
        let Some(index) = index.filter(|index| *index <= history.len()) else { return };
        if self.place == history.len() {
            self.draft = self.buffer.text();
        }
        let text = history.get(index).map_or_else(|| self.draft.clone(), str::to_string);
        self.buffer.set(&text);
        self.place = index;
    }

    /// Completes the word before the cursor as far as all completions agree. Lists them if the key is pressed again.
    fn complete(&mut self, language: &dyn Language, again: bool) -> io::Result<()> {
        let before = self.buffer.before_cursor();
        let (start, words) = language.completions(&before);
        let typed = before.chars().count() - start;
        let Some(common) = common_start(&words) else { return Ok(()) };
        if common.chars().count() > typed || words.len() == 1 {
            self.buffer.complete(start, &common);
            return Ok(());
        }
        self.listed = true;
        if again {
            self.finish()?;
            let mut text = format!("\r\n{}", columns(&words, terminal_size().0).replace('\n', "\r\n"));
            if words.len() > LISTED_MAX {
                text.push_str(&format!("… and {} more\r\n", words.len() - LISTED_MAX));
            }
            out(text.as_bytes())?;
            self.screen.leave();
        }
        Ok(())
    }

    /// Searches the history from the newest entry, with each key that is typed.
    fn search(&mut self, keys: &mut Keys, history: &History) -> io::Result<()> {
        let (draft, mut wanted, mut found) = (self.buffer.text(), String::new(), None);
        loop {
            let prompt = format!("search `{wanted}`: ");
            self.draw(&prompt, MORE)?;
            let before = match keys.next(io::stdin())? {
                Some(Key::Char(letter)) => {
                    wanted.push(letter);
                    found.map_or(history.len(), |index: usize| index + 1)
                }
                Some(Key::Backspace) => {
                    wanted.pop();
                    history.len()
                }
                Some(Key::Ctrl('r')) => found.unwrap_or(history.len()),
                Some(Key::Ctrl('c' | 'g')) => {
                    self.buffer.set(&draft);
                    return Ok(());
                }
                // Any other key ends the search, and the entry can be edited.
                _ => return Ok(()),
            };
            if let Some(index) = history.search(&wanted, before) {
                found = Some(index);
                self.place = index;
                self.buffer.set(history.get(index).unwrap_or_default());
            }
        }
    }
}

fn apply(buffer: &mut Buffer, key: Key) {
    match key {
        Key::Char(letter) => buffer.insert(letter.encode_utf8(&mut [0; 4])),
        Key::Paste(text) => buffer.insert(&text),
        Key::Enter | Key::Alt('\n') | Key::Ctrl('j') => buffer.insert("\n"),
        Key::Backspace => buffer.backspace(),
        Key::Delete | Key::Ctrl('d') => buffer.delete(),
        Key::Left | Key::Ctrl('b') => buffer.left(),
        Key::Right | Key::Ctrl('f') => buffer.right(),
        Key::Home | Key::Ctrl('a') => buffer.home(),
        Key::End | Key::Ctrl('e') => buffer.end(),
        Key::WordLeft | Key::Alt('b') => buffer.word_left(),
        Key::WordRight | Key::Alt('f') => buffer.word_right(),
        Key::Ctrl('k') => buffer.kill_to_end(),
        Key::Ctrl('u') => buffer.kill_to_start(),
        Key::Ctrl('w') | Key::Alt('\u{7f}') => buffer.kill_word_left(),
        Key::Alt('d') => buffer.kill_word_right(),
        Key::Ctrl('y') => buffer.yank(),
        Key::Ctrl('t') => buffer.transpose(),
        _ => {}
    }
}

/// Returns the start that all `words` have in common, in the letters of the first.
fn common_start(words: &[String]) -> Option<String> {
    let (first, others) = words.split_first()?;
    let mut common: Vec<char> = first.chars().collect();
    for word in others {
        let same = common.iter().zip(word.chars()).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
        common.truncate(same);
    }
    Some(common.into_iter().collect())
}

/// Returns `words` in columns.
fn columns(words: &[String], width: usize) -> String {
    let words = &words[..words.len().min(LISTED_MAX)];
    let widest = words.iter().map(|word| word.chars().count()).max().unwrap_or(0) + 2;
    let per_row = (width / widest).max(1);
    let mut text = String::new();
    for row in words.chunks(per_row) {
        let row: String = row.iter().map(|word| format!("{word:widest$}")).collect();
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_are_as_long_as_they_agree() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_string()).collect::<Vec<_>>();
        assert_eq!(common_start(&words(&["SELECT"])).unwrap(), "SELECT");
        assert_eq!(common_start(&words(&["trip_a", "Trip_b"])).unwrap(), "trip_");
        assert_eq!(common_start(&[]), None);
        assert_eq!(columns(&words(&["a", "bbb", "c"]), 10), "a    bbb\nc\n");
    }
}
