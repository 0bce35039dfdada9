//! Reads statements from a terminal, with the line editor rustyline.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use buzz_protocol::{QueryError, Result};
use rustyline::completion::Completer;
use rustyline::config::{BellStyle, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter, MatchingBracketHighlighter};
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Context, Helper};

use super::history;
use super::names::Names;
use crate::terminal::{note, warn};

const PROMPT: &str = "buzz> ";

/// Maximum number of completions of one word. rustyline counts them in 16 bits.
const COMPLETIONS_MAX: usize = 1000;

/// Longest word that is completed, in bytes. rustyline counts the columns of a word in 16 bits.
const COMPLETION_BYTES_MAX: usize = 1000;

/// The text that was entered, or the reason why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered {
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the end of the input.
    End,
}

/// Reads one text after the other.
#[derive(Debug)]
pub(super) struct Editor {
    lines: rustyline::Editor<Assistant, FileHistory>,
    /// File to which statements are appended.
    file: Option<PathBuf>,
}

impl Editor {
    /// Makes an editor with the statements in `file`, to which new ones are appended. If the file cannot be read or written, a
    /// warning is printed and the statements are kept for this session only.
    ///
    /// # Errors
    /// `Invalid` if the terminal cannot be used.
    pub(super) fn new(file: Option<PathBuf>) -> Result<Self> {
        let config = Config::builder().completion_type(CompletionType::List).bell_style(BellStyle::None);
        let config = config.max_history_size(history::ENTRIES_MAX).map_err(unusable)?.build();
        let mut earlier = FileHistory::with_config(&config);
        let file = file.filter(|file| match history::load(file, &mut earlier) {
            Ok(is_stored) => is_stored,
            Err(error) => {
                warn(&format!("file of the history `{}`: {error}; statements are not stored", file.display()));
                false
            }
        });
        Ok(Self { lines: rustyline::Editor::with_history(config, earlier).map_err(unusable)?, file })
    }

    /// Reads a text from the terminal and adds it to the history. `names` decide where it ends, and complete its words. Blocks.
    ///
    /// # Errors
    /// `Invalid` if the terminal cannot be read or written.
    pub(super) fn read(&mut self, names: Names) -> Result<Entered> {
        self.lines.set_helper(Some(Assistant { names, brackets: MatchingBracketHighlighter::new() }));
        // rustyline counts rows in 16 bits, and panics if a pasted text has more. It restores the terminal.
        let Ok(read) = catch_unwind(AssertUnwindSafe(|| self.lines.readline(PROMPT))) else {
            note(
                "error: the editor failed, for example because the text has too many lines; put it into a file and use .read FILE",
            );
            return Ok(Entered::Interrupted);
        };
        match read {
            Ok(text) => {
                self.remember(text.trim_end());
                Ok(Entered::Text(text))
            }
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Ok(Entered::Interrupted),
            Err(ReadlineError::Eof) => Ok(Entered::End),
            Err(error) => Err(unusable(error)),
        }
    }

    /// Adds a statement to the history and to its file.
    fn remember(&mut self, statement: &str) {
        if statement.trim().is_empty() || statement.len() > history::ENTRY_BYTES_MAX {
            return;
        }
        let Some(file) = &self.file else {
            // Fails in histories that are databases only.
            _ = self.lines.add_history_entry(statement);
            return;
        };
        let added = self.lines.add_history_entry(statement).and_then(|_| self.lines.append_history(file));
        if let Err(error) = added {
            warn(&format!("file of the history `{}`: {error}; further statements are not stored", file.display()));
            self.file = None;
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is the argument of map_err")]
fn unusable(error: ReadlineError) -> QueryError {
    QueryError::invalid(format!("the terminal is not usable: {error}"))
}

/// Knowledge of the statement that is edited: its end, its names and its brackets.
struct Assistant {
    names: Names,
    brackets: MatchingBracketHighlighter,
}

impl std::fmt::Debug for Assistant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assistant").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Helper for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, text: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let (start, words) = self.names.completions(&text[..cursor]);
        Ok((start, bounded(words)))
    }
}

/// Leaves out completions that rustyline cannot count. `words` are in order.
fn bounded(mut words: Vec<String>) -> Vec<String> {
    words.retain(|word| word.len() <= COMPLETION_BYTES_MAX);
    if words.len() > COMPLETIONS_MAX {
        // With the last word, the common start of all words stays the same.
        let last = words.pop();
        words.truncate(COMPLETIONS_MAX - 1);
        words.extend(last);
    }
    words
}

impl Highlighter for Assistant {
    fn highlight<'l>(&self, text: &'l str, cursor: usize) -> Cow<'l, str> {
        self.brackets.highlight(text, cursor)
    }

    fn highlight_char(&self, text: &str, cursor: usize, kind: CmdKind) -> bool {
        self.brackets.highlight_char(text, cursor, kind)
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match self.names.is_complete(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

#[cfg(test)]
mod tests {
    use rustyline::history::History;

    use super::*;

    #[test]
    fn completions_are_bounded_and_keep_their_common_start() {
        let mut words: Vec<String> = (0..70_000).map(|number| format!("column_{number:05}")).collect();
        words.push("x".repeat(70_000));
        let bounded = bounded(words);
        assert_eq!((bounded.len(), bounded[999].as_str()), (1000, "column_69999"));
        assert_eq!(rustyline::completion::longest_common_prefix(&bounded), Some("column_"));
    }

    #[test]
    fn statements_are_stored_until_the_file_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state/history");
        let mut editor = Editor::new(Some(file.clone())).unwrap();
        for statement in ["SELECT 1;", "SELECT 1;", " ", "SELECT\n2;", &"x".repeat(history::ENTRY_BYTES_MAX + 1)] {
            editor.remember(statement);
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "#V2\nSELECT 1;\nSELECT\\n2;\n");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        editor.remember("SELECT 3;");
        assert_eq!((editor.file.is_none(), editor.lines.history().len()), (true, 3));
        assert!(Editor::new(Some(file)).unwrap().file.is_none());
    }
}
