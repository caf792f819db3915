//! Where results go: aligned tables for people, JSON for programs, one line for an error.

use std::io::{IsTerminal as _, Write};

use serde::Serialize;

use crate::failure::Failure;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// The two outputs of a command.
pub(crate) struct Screen {
    out: Box<dyn Write + Send>,
    notes: Box<dyn Write + Send>,
    colours: bool,
    /// The notes go to a terminal, where a line can be written anew.
    terminal: bool,
    /// Such a line stands there.
    unfinished: bool,
}

impl Screen {
    /// Standard output and error; colours only on a terminal, and not when `NO_COLOR` is set.
    pub(crate) fn of_process() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            out: Box::new(std::io::stdout()),
            notes: Box::new(std::io::stderr()),
            colours: wanted && std::io::stdout().is_terminal(),
            terminal: std::io::stderr().is_terminal(),
            unfinished: false,
        }
    }

    /// Writes to the given places, without colours.
    #[cfg(test)]
    pub(crate) fn plain(out: impl Write + Send + 'static, notes: impl Write + Send + 'static) -> Self {
        Self {
            out: Box::new(out),
            notes: Box::new(notes),
            colours: false,
            terminal: false,
            unfinished: false,
        }
    }

    /// Takes away the line of [`Screen::progress`].
    fn settle(&mut self) {
        if std::mem::take(&mut self.unfinished) {
            let _ = write!(self.notes, "\r\x1b[K");
            let _ = self.notes.flush();
        }
    }

    /// A line of the result.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.settle();
        writeln!(self.out, "{line}")?;
        Ok(self.out.flush()?)
    }

    /// Begins a new screen, on a terminal; elsewhere an empty line.
    pub(crate) fn clear(&mut self) -> Result<(), Failure> {
        self.line(if self.colours { "\x1b[H\x1b[2J" } else { "" })
    }

    /// The result as JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
        self.line(&text)
    }

    /// Rows below their heads, columns aligned.
    pub(crate) fn table(&mut self, heads: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        self.settle();
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect()).collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([heads[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
        for (index, row) in std::iter::once(&heads).chain(&rows).enumerate() {
            let cells = row.iter().zip(&widths).map(|(cell, width)| {
                let padded = format!("{cell:width$}");
                if index == 0 { self.paint("1", &padded) } else { self.paint(colour_of(cell), &padded) }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(self.out.flush()?)
    }

    /// A word in the colour that fits it.
    pub(crate) fn word(&self, word: &str, width: usize) -> String {
        self.paint(colour_of(word), &format!("{:width$}", harmless(word)))
    }

    /// How far something has come, on a terminal; elsewhere nothing.
    pub(crate) fn progress(&mut self, what: &str, done: f64, words: &str) {
        if self.terminal {
            self.unfinished = true;
            // As with a note.
            let _ = write!(self.notes, "\r\x1b[K{what} {} {}", bar(done), harmless(words));
            let _ = self.notes.flush();
        }
    }

    /// Something worth knowing that is not the result.
    pub(crate) fn note(&mut self, note: &str) {
        self.settle();
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

/// `text` without what would steer a terminal: names in a registry come from anyone.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_it_says_whatever_it_is_told() {
        assert_eq!(bar(0.0), format!("[{}]   0 %", "-".repeat(30)));
        assert_eq!(bar(0.5), format!("[{}{}]  50 %", "#".repeat(15), "-".repeat(15)));
        for full in [1.0, 7.0, f64::INFINITY] {
            assert_eq!(bar(full), format!("[{}] 100 %", "#".repeat(30)));
        }
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
    }
}
