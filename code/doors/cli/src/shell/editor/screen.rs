//! Draws the edited text below the prompt, over as many rows of the terminal as it needs.

use std::io::{self, Write};

use unicode_width::UnicodeWidthChar;

/// The rows of a text on a terminal, and the place of its cursor.
#[derive(Debug, PartialEq, Eq)]
struct Rows {
    rows: Vec<String>,
    cursor: (usize, usize),
}

/// Divides `text` into rows of at most `width` columns. The first line begins with `prompt`, the others with `more`.
fn rows(text: &str, cursor: usize, prompt: &str, more: &str, width: usize) -> Rows {
    let width = width.max(2);
    let mut found = Rows { rows: Vec::new(), cursor: (0, 0) };
    let (mut row, mut column) = (String::new(), 0);
    let put = |letter: char, row: &mut String, column: &mut usize, rows: &mut Vec<String>| {
        let wide = letter.width().unwrap_or(0);
        if *column + wide > width {
            rows.push(std::mem::take(row));
            *column = 0;
        }
        row.push(letter);
        *column += wide;
    };
    for letter in prompt.chars() {
        put(letter, &mut row, &mut column, &mut found.rows);
    }
    for (index, letter) in text.chars().chain(['\0']).enumerate() {
        if index == cursor {
            // The cursor has no place behind a full row.
            if column >= width {
                found.rows.push(std::mem::take(&mut row));
                column = 0;
            }
            found.cursor = (found.rows.len(), column);
        }
        match letter {
            '\0' => {}
            '\n' => {
                found.rows.push(std::mem::take(&mut row));
                column = 0;
                for letter in more.chars() {
                    put(letter, &mut row, &mut column, &mut found.rows);
                }
            }
            _ => put(letter, &mut row, &mut column, &mut found.rows),
        }
    }
    found.rows.push(row);
    found
}

/// The part of the terminal in which a text is edited.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// Rows above the cursor that belong to the text.
    above: usize,
}

/// The text to draw.
pub(super) struct Drawing<'a> {
    pub(super) text: &'a str,
    pub(super) cursor: usize,
    pub(super) prompt: &'a str,
    pub(super) more: &'a str,
}

impl Screen {
    /// Draws the text over what was drawn last. Of a text with more rows than the terminal, draws those around the cursor.
    pub(super) fn draw(
        &mut self,
        drawing: &Drawing<'_>,
        (width, height): (usize, usize),
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let Rows { rows, cursor: (row, column) } =
            rows(drawing.text, drawing.cursor, drawing.prompt, drawing.more, width);
        let first = (row + 1).saturating_sub(height.max(1));
        let shown = &rows[first..rows.len().min(first + height.max(1))];
        let mut text = String::new();
        if self.above > 0 {
            text.push_str(&format!("\x1b[{}A", self.above));
        }
        text.push_str("\r\x1b[J");
        text.push_str(&shown.join("\r\n"));
        let below = shown.len() - 1 - (row - first);
        if below > 0 {
            text.push_str(&format!("\x1b[{below}A"));
        }
        text.push('\r');
        if column > 0 {
            text.push_str(&format!("\x1b[{column}C"));
        }
        self.above = row - first;
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Continues below the text: what is drawn next is on a new row.
    pub(super) fn leave(&mut self) {
        self.above = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, cursor: usize, width: usize) -> (Vec<String>, (usize, usize)) {
        let found = rows(text, cursor, "> ", "- ", width);
        (found.rows, found.cursor)
    }

    fn lines<const N: usize>(lines: [&str; N]) -> Vec<String> {
        lines.map(str::to_string).to_vec()
    }

    #[test]
    fn text_is_divided_into_rows_of_the_terminal() {
        assert_eq!(found("ab", 1, 80), (lines(["> ab"]), (0, 3)));
        assert_eq!(found("ab\ncd", 3, 80), (lines(["> ab", "- cd"]), (1, 2)));
        assert_eq!(found("abcd", 4, 4), (lines(["> ab", "cd"]), (1, 2)));
        assert_eq!(found("ab", 2, 4), (lines(["> ab", ""]), (1, 0)));
        assert_eq!(found("日本", 2, 5), (lines(["> 日", "本"]), (1, 2)));
    }

    #[test]
    fn long_text_keeps_the_cursor_on_the_terminal() {
        let text = "x\n".repeat(100);
        let mut out = Vec::new();
        let mut screen = Screen::default();
        let drawing = Drawing { text: &text, cursor: 100, prompt: "> ", more: "- " };
        screen.draw(&drawing, (80, 10), &mut out).unwrap();
        let drawn = String::from_utf8(out).unwrap();
        assert_eq!(drawn.matches("\r\n").count(), 9, "{drawn:?}");
        assert_eq!(screen.above, 9);
    }
}
