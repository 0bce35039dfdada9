//! The text that is edited, and the cursor.

/// The text that is edited, and the cursor.
#[derive(Debug, Default, Clone)]
pub(super) struct Buffer {
    text: Vec<char>,
    cursor: usize,
    /// The text that was deleted last, which Ctrl-Y inserts.
    killed: Vec<char>,
}

impl Buffer {
    pub(super) fn text(&self) -> String {
        self.text.iter().collect()
    }

    pub(super) fn before_cursor(&self) -> String {
        self.text[..self.cursor].iter().collect()
    }

    pub(super) fn cursor(&self) -> usize {
        self.cursor
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Replaces the text, with the cursor at its end.
    pub(super) fn set(&mut self, text: &str) {
        self.text = text.chars().collect();
        self.cursor = self.text.len();
    }

    /// Inserts `text` without its control characters, except for the ends of lines.
    pub(super) fn insert(&mut self, text: &str) {
        let text = text.replace("\r\n", "\n").replace('\r', "\n").replace('\t', "    ");
        for letter in text.chars().filter(|letter| *letter == '\n' || !letter.is_control()) {
            self.text.insert(self.cursor, letter);
            self.cursor += 1;
        }
    }

    pub(super) fn backspace(&mut self) {
        if self.cursor > 0 {
            self.cursor -= 1;
            self.text.remove(self.cursor);
        }
    }

    pub(super) fn delete(&mut self) {
        if self.cursor < self.text.len() {
            self.text.remove(self.cursor);
        }
    }

    pub(super) fn left(&mut self) {
        self.cursor = self.cursor.saturating_sub(1);
    }

    pub(super) fn right(&mut self) {
        self.cursor = (self.cursor + 1).min(self.text.len());
    }

    pub(super) fn home(&mut self) {
        self.cursor = self.line_start(self.cursor);
    }

    pub(super) fn end(&mut self) {
        self.cursor = self.line_end(self.cursor);
    }

    pub(super) fn word_left(&mut self) {
        self.cursor = self.word_start();
    }

    pub(super) fn word_right(&mut self) {
        self.cursor = self.word_end();
    }

    /// Moves to the line above. Returns false on the first line.
    pub(super) fn up(&mut self) -> bool {
        let start = self.line_start(self.cursor);
        if start == 0 {
            return false;
        }
        let above = self.line_start(start - 1);
        self.cursor = (above + (self.cursor - start)).min(start - 1);
        true
    }

    /// Moves to the line below. Returns false on the last line.
    pub(super) fn down(&mut self) -> bool {
        let end = self.line_end(self.cursor);
        if end == self.text.len() {
            return false;
        }
        let column = self.cursor - self.line_start(self.cursor);
        self.cursor = (end + 1 + column).min(self.line_end(end + 1));
        true
    }

    pub(super) fn kill_to_end(&mut self) {
        let end = self.line_end(self.cursor);
        // At the end of a line, joins it with the next.
        let end = if end == self.cursor { (end + 1).min(self.text.len()) } else { end };
        self.kill(self.cursor, end);
    }

    pub(super) fn kill_to_start(&mut self) {
        self.kill(self.line_start(self.cursor), self.cursor);
    }

    pub(super) fn kill_word_left(&mut self) {
        self.kill(self.word_start(), self.cursor);
    }

    pub(super) fn kill_word_right(&mut self) {
        self.kill(self.cursor, self.word_end());
    }

    pub(super) fn yank(&mut self) {
        let killed: String = self.killed.iter().collect();
        self.insert(&killed);
    }

    /// Exchanges the two characters before the cursor, or around it.
    pub(super) fn transpose(&mut self) {
        if self.cursor > 0 && self.text.len() > 1 {
            let second = self.cursor.min(self.text.len() - 1);
            self.text.swap(second - 1, second);
            self.cursor = second + 1;
        }
    }

    /// Replaces the text from `start` up to the cursor.
    pub(super) fn complete(&mut self, start: usize, word: &str) {
        self.text.drain(start..self.cursor);
        self.cursor = start;
        self.insert(word);
    }

    fn kill(&mut self, start: usize, end: usize) {
        if start < end {
            self.killed = self.text.drain(start..end).collect();
            self.cursor = start;
        }
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].iter().rposition(|letter| *letter == '\n').map_or(0, |found| found + 1)
    }

    fn line_end(&self, at: usize) -> usize {
        self.text[at..].iter().position(|letter| *letter == '\n').map_or(self.text.len(), |found| at + found)
    }

    fn word_start(&self) -> usize {
        let mut at = self.cursor;
        while at > 0 && !is_word(self.text[at - 1]) {
            at -= 1;
        }
        while at > 0 && is_word(self.text[at - 1]) {
            at -= 1;
        }
        at
    }

    fn word_end(&self) -> usize {
        let mut at = self.cursor;
        while at < self.text.len() && !is_word(self.text[at]) {
            at += 1;
        }
        while at < self.text.len() && is_word(self.text[at]) {
            at += 1;
        }
        at
    }
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(text: &str) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.insert(text);
        buffer
    }

    #[test]
    fn words_and_lines_are_deleted_and_inserted_again() {
        let mut edited = buffer("SELECT count FROM t");
        edited.kill_word_left();
        edited.kill_word_left();
        assert_eq!(edited.text(), "SELECT count ");
        edited.yank();
        assert_eq!(edited.text(), "SELECT count FROM ");
        edited.word_left();
        edited.word_left();
        edited.kill_to_end();
        assert_eq!((edited.text().as_str(), edited.cursor()), ("SELECT ", 7));
        edited.home();
        edited.right();
        edited.transpose();
        assert_eq!(edited.text(), "ESLECT ");
        edited.kill_to_start();
        assert_eq!(edited.text(), "LECT ");
        edited.complete(0, "x");
        assert_eq!((edited.text().as_str(), edited.cursor()), ("xLECT ", 1));
    }

    #[test]
    fn cursor_moves_between_lines() {
        let mut edited = buffer("ab\ncdef\r\ng\u{7}");
        assert_eq!(edited.text(), "ab\ncdef\ng");
        assert!(edited.up());
        assert_eq!(edited.cursor(), 4);
        edited.end();
        assert!(edited.up());
        assert_eq!(edited.cursor(), 2);
        assert!(!edited.up());
        assert!(edited.down() && edited.down());
        assert_eq!(edited.cursor(), 9);
        assert!(!edited.down());
    }
}
