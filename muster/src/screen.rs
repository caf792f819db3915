//! The output of a command: aligned tables for people, JSON for programs, one line for an error.

use std::io::{IsTerminal as _, Write};

use serde::Serialize;

use crate::failure::CommandFailure;

/// The form of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// An aligned table, for people.
    #[default]
    Table,
    /// JSON, for programs.
    Json,
}

/// The two outputs of a command.
pub(crate) struct Screen {
    /// The result.
    out: Box<dyn Write + Send>,
    /// Everything else, so that a pipe receives the result alone.
    notes: Box<dyn Write + Send>,
    colours: bool,
    /// A person reads the result and types: both ends are terminals.
    interactive: bool,
    /// The notes go to a terminal, where a line can be overwritten.
    terminal: bool,
    /// The last line of the notes shows progress, and is to be erased before anything else is written.
    shows_progress: bool,
}

impl Screen {
    /// Standard output and error, with colours only on a terminal and when `NO_COLOR` is not set.
    pub(crate) fn of_process() -> Self {
        // By the convention of no-color.org an empty value means that colours are wanted.
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // The terminal of a program that knows no cursor, such as a shell within an editor.
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            out: Box::new(std::io::stdout()),
            notes: Box::new(std::io::stderr()),
            colours: wanted && std::io::stdout().is_terminal(),
            interactive: !dumb && std::io::stdout().is_terminal() && std::io::stdin().is_terminal(),
            terminal: std::io::stderr().is_terminal(),
            shows_progress: false,
        }
    }

    /// Writes to the given outputs, without colours.
    #[cfg(test)]
    pub(crate) fn plain(out: impl Write + Send + 'static, notes: impl Write + Send + 'static) -> Self {
        Self {
            out: Box::new(out),
            notes: Box::new(notes),
            colours: false,
            interactive: false,
            terminal: false,
            shows_progress: false,
        }
    }

    /// True when a person reads the result and types.
    pub(crate) fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// True when colours are wanted.
    pub(crate) fn has_colours(&self) -> bool {
        self.colours
    }

    /// Erases the line of [`Screen::progress`].
    fn erase_progress(&mut self) {
        if std::mem::take(&mut self.shows_progress) {
            // Progress that cannot be written changes nothing about the result.
            let _ = write!(self.notes, "\r\x1b[K");
            let _ = self.notes.flush();
        }
    }

    /// Writes a line of the result. It is flushed at once, because the next line may be minutes away.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), CommandFailure> {
        self.erase_progress();
        writeln!(self.out, "{line}")?;
        Ok(self.out.flush()?)
    }

    /// Begins a new screen on a terminal, and writes an empty line elsewhere.
    pub(crate) fn clear(&mut self) -> Result<(), CommandFailure> {
        self.line(if self.colours { "\x1b[H\x1b[2J" } else { "" })
    }

    /// Writes the result as indented JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CommandFailure> {
        let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
        self.json_text(&text)
    }

    /// Writes the result as one line of JSON, for programs that take line by line.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), CommandFailure> {
        let text = serde_json::to_string(value).map_err(std::io::Error::from)?;
        self.json_text(&text)
    }

    /// Writes text that is JSON already. It means the same as before, and controls no terminal.
    pub(crate) fn json_text(&mut self, text: &str) -> Result<(), CommandFailure> {
        self.line(&escaped(text))
    }

    /// Writes rows below their heads, with aligned columns.
    pub(crate) fn table(&mut self, heads: &[&str], rows: &[Vec<String>]) -> Result<(), CommandFailure> {
        self.erase_progress();
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect()).collect();
        let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
        let mut widths = vec![0; heads.len()];
        for row in std::iter::once(&heads).chain(&rows) {
            // Rows may be shorter than the heads: a process that does not answer has only its problem.
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        self.row(&heads, &widths, |_| "1")?;
        for row in &rows {
            self.row(row, &widths, colour_of)?;
        }
        Ok(self.out.flush()?)
    }

    fn row(
        &mut self,
        cells: &[String],
        widths: &[usize],
        colour: fn(&str) -> &'static str,
    ) -> Result<(), CommandFailure> {
        let mut line = Vec::with_capacity(cells.len());
        for (cell, width) in cells.iter().zip(widths) {
            // Padded before it is painted: the codes of a colour have no width on the screen.
            line.push(self.paint(colour(cell), &format!("{cell:width$}")));
        }
        writeln!(self.out, "{}", line.join("  ").trim_end())?;
        Ok(())
    }

    /// Returns a word in the colour of its meaning, padded to `width`.
    pub(crate) fn word(&self, word: &str, width: usize) -> String {
        self.paint(colour_of(word), &format!("{:width$}", harmless(word)))
    }

    /// Shows the progress of a step on a terminal, and nothing elsewhere. `done` is 1 at the end.
    pub(crate) fn progress(&mut self, step: &str, done: f64, words: &str) {
        if self.terminal {
            self.shows_progress = true;
            // Progress that cannot be written changes nothing about the result.
            let _ = write!(self.notes, "\r\x1b[K{step} {} {}", bar(done), harmless(words));
            let _ = self.notes.flush();
        }
    }

    /// Writes a line that is worth reading but does not belong to the result.
    pub(crate) fn note(&mut self, note: &str) {
        self.erase_progress();
        // A note that cannot be written changes nothing about the result.
        let _ = writeln!(self.notes, "muster: {}", harmless(note));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A bar that is full at 1.
fn bar(done: f64) -> String {
    const WIDTH: usize = 30;
    let full = (done.clamp(0.0, 1.0) * WIDTH as f64).round() as usize;
    format!("[{}{}] {:3.0} %", "#".repeat(full), "-".repeat(WIDTH - full), done.clamp(0.0, 1.0) * 100.0)
}

fn colour_of(word: &str) -> &'static str {
    match word {
        "UP" | "CREATE" | "ok" => "32",
        "DOWN" | "DELETE" | "failed" => "31",
        "STARTING" | "TESTING" | "OUTOFSERVICE" | "UPDATE" | "RESET" | "warning" => "33",
        _ => "",
    }
}

/// Replaces the characters that control a terminal, or the order in which others appear on it. Anyone may
/// register names, so their text is not to be trusted.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if controls(c) { '\u{fffd}' } else { c }).collect()
}

/// JSON with such characters escaped. Serialisers escape the first 32 only, and some terminals obey those of
/// the second block, too.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            // Between values. Within texts they are escaped already.
            '\n' | '\t' => escaped.push(c),
            '\r' => escaped.push(' '),
            c if controls(c) => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

fn controls(c: char) -> bool {
    // Separators of lines, and everything that turns the direction of writing.
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_never_more_than_full() {
        assert_eq!(bar(0.0), format!("[{}]   0 %", "-".repeat(30)));
        assert_eq!(bar(0.5), format!("[{}{}]  50 %", "#".repeat(15), "-".repeat(15)));
        for full in [1.0, 7.0, f64::INFINITY] {
            assert_eq!(bar(full), format!("[{}] 100 %", "#".repeat(30)));
        }
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(
            harmless("UP\u{202e}NWOD\u{9b}2J"),
            "UP\u{fffd}NWOD\u{fffd}2J",
            "nor turn its words round"
        );
    }

    #[test]
    fn json_means_the_same_and_controls_no_terminal() {
        let value = serde_json::json!({ "name\u{9b}": ["a\x1b[2J\r\n\u{9b}2J\u{7f}\u{202e}\u{2028}ü", 1] });
        for text in [serde_json::to_string(&value), serde_json::to_string_pretty(&value)] {
            let escaped = escaped(&text.expect("JSON"));
            assert!(!escaped.chars().any(|c| c != '\n' && controls(c)), "{escaped:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).expect("JSON"), value);
        }
        assert_eq!(escaped("{\r\"a\":\t1}"), "{ \"a\":\t1}");
    }
}
