//! One table: its columns as far as they fit, and the rows around the selected one.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table};

use super::theme::{Meaning, Theme};
use crate::screen::harmless;
use crate::top::model::{Moment, Panel};
use crate::top::sheet::{Choice, Column, Listed, Value};

/// Width from which on the rows of a table stand in two columns if one has no room for them.
const TWO_COLUMNS: u16 = 160;
/// The greatest width of a history, and of the first column.
const WIDEST: u16 = 40;

/// The rows that stand side by side in this width.
pub(super) fn columns_in(width: u16) -> usize {
    if width >= TWO_COLUMNS { 2 } else { 1 }
}

/// A table to be drawn.
#[derive(Clone, Copy)]
pub(super) struct Sheet<'a> {
    pub(super) panel: Panel,
    pub(super) choice: &'a Choice,
    pub(super) is_in_focus: bool,
    pub(super) is_typed: bool,
    pub(super) now: Moment,
    pub(super) theme: Theme,
}

impl Sheet<'_> {
    /// Draws rows that are in order. `problem` is a text that stands in the place of a row's figures.
    pub(super) fn draw<T: Listed>(
        self,
        rows: &[&T],
        columns: &[Column<T>],
        problem: fn(&T, Moment) -> Option<String>,
        empty: &'static str,
        area: Rect,
        frame: &mut Frame<'_>,
    ) {
        let [title, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        let sorted_by = columns.get(self.choice.sort).map_or("", |column| column.name);
        frame.render_widget(self.title(rows.len(), sorted_by), title);
        if rows.is_empty() {
            let empty = if self.choice.filter.is_empty() { empty } else { "No row has this text." };
            frame.render_widget(Line::styled(empty, self.theme.of(Meaning::Quiet)), body);
            return;
        }
        // One line of each column has the heads.
        let height = usize::from(body.height.saturating_sub(1));
        let side_by_side = if rows.len() > height { columns_in(body.width) } else { 1 };
        let selected = self.choice.selected_of(rows.len()).unwrap_or(0);
        let first = (selected + 1).saturating_sub(height * side_by_side);
        let areas = Layout::horizontal(vec![Constraint::Fill(1); side_by_side]).spacing(2).split(body);
        let mut shown = rows.get(first..).unwrap_or_default();
        for (number, area) in areas.iter().enumerate() {
            let (here, rest) = shown.split_at(height.min(shown.len()));
            shown = rest;
            let selected = selected.checked_sub(first + number * height);
            self.part(here, selected, columns, problem, *area, frame);
        }
    }

    fn title(&self, rows: usize, sorted_by: &str) -> Line<'static> {
        let number = self.panel as usize + 1;
        let name = format!("{number} {} ({rows})", self.panel.title());
        let style = self.theme.of(if self.is_in_focus { Meaning::Focus } else { Meaning::Head });
        let mut rest = format!("  by {sorted_by}");
        if self.choice.is_reversed {
            rest.push_str(", turned round");
        }
        if !self.choice.filter.is_empty() || self.is_typed {
            rest.push_str(&format!("  with \"{}\"", harmless(&self.choice.filter)));
        }
        Line::from(vec![Span::styled(name, style), Span::styled(rest, self.theme.of(Meaning::Quiet))])
    }

    fn part<T: Listed>(
        &self,
        rows: &[&T],
        selected: Option<usize>,
        columns: &[Column<T>],
        problem: fn(&T, Moment) -> Option<String>,
        area: Rect,
        frame: &mut Frame<'_>,
    ) {
        let Some(first) = rows.first() else { return };
        // All values of a column are of one kind.
        let kinds: Vec<Value> = columns.iter().map(|column| (column.value)(first, self.now)).collect();
        let fitted = fit(columns, &kinds, area.width);
        let heads: Vec<Cell<'_>> = fitted
            .iter()
            .map(|(at, _)| {
                let column = &columns[*at];
                let sign = if *at == self.choice.sort { Meaning::Focus } else { Meaning::Head };
                let head = Span::styled(column.name, self.theme.of(sign));
                aligned(Line::from(head), &kinds[*at])
            })
            .collect();
        let mut lines = Vec::with_capacity(rows.len());
        for (number, row) in rows.iter().copied().enumerate() {
            let cells = match problem(row, self.now) {
                Some(problem) => self.troubled(row, columns, &fitted, &problem),
                None => fitted
                    .iter()
                    .map(|(at, width)| self.cell((columns[*at].value)(row, self.now), *width))
                    .collect(),
            };
            let line = Row::new(cells);
            let is_selected = self.is_in_focus && selected == Some(number);
            lines.push(if is_selected { line.style(self.theme.of(Meaning::Selected)) } else { line });
        }
        let widths = fitted.iter().map(|(_, width)| Constraint::Length(*width));
        frame.render_widget(Table::new(lines, widths).header(Row::new(heads)).column_spacing(1), area);
    }

    /// A row whose figures are not known.
    fn troubled<T>(
        &self,
        row: &T,
        columns: &[Column<T>],
        fitted: &[(usize, u16)],
        problem: &str,
    ) -> Vec<Cell<'static>> {
        let mut cells = Vec::new();
        if let Some((at, width)) = fitted.first() {
            cells.push(self.cell((columns[*at].value)(row, self.now), *width));
        }
        let rest = u16::try_from(fitted.len().saturating_sub(1)).unwrap_or(1).max(1);
        let text = Span::styled(harmless(problem), self.theme.of(Meaning::Bad));
        cells.push(Cell::new(text).column_span(rest));
        cells
    }

    fn cell(&self, value: Value, width: u16) -> Cell<'static> {
        match &value {
            Value::Text(text) => Cell::new(text.clone()),
            Value::Number(Some(number), digits) => aligned(Line::raw(format!("{number:.digits$}")), &value),
            Value::Number(None, _) => aligned(Line::raw("-"), &value),
            Value::Trend(samples) => {
                Cell::new(Span::styled(bars(samples, usize::from(width)), self.theme.of(Meaning::Trend)))
            }
        }
    }
}

/// Figures stand to the right, so that their digits stand below each other.
fn aligned<'a>(line: Line<'a>, kind: &Value) -> Cell<'a> {
    Cell::new(if matches!(kind, Value::Number(..)) { line.right_aligned() } else { line })
}

/// The columns that fit, by their numbers, with their widths. The first one is always there.
fn fit<T>(columns: &[Column<T>], kinds: &[Value], width: u16) -> Vec<(usize, u16)> {
    let mut ranked: Vec<usize> = (0..columns.len()).collect();
    ranked.sort_by_key(|at| columns[*at].rank);
    let mut fitted: Vec<(usize, u16)> = Vec::new();
    let mut left = width;
    for at in ranked {
        let needed = columns[at].width + u16::from(!fitted.is_empty());
        if needed <= left || fitted.is_empty() {
            fitted.push((at, columns[at].width.min(width)));
            left = left.saturating_sub(needed);
        } else if columns[at].rank > 0 {
            // A column of a lesser rank must not take the place of one that found none.
            break;
        }
    }
    fitted.sort_unstable();
    // Histories show more with more room, and long names are shown whole.
    let mut growing: Vec<usize> =
        (0..fitted.len()).filter(|at| matches!(kinds[fitted[*at].0], Value::Trend(_))).collect();
    growing.push(0);
    while left > 0 {
        let narrowest =
            growing.iter().copied().filter(|at| fitted[*at].1 < WIDEST).min_by_key(|at| fitted[*at].1);
        let Some(at) = narrowest else { break };
        fitted[at].1 += 1;
        left -= 1;
    }
    fitted
}

/// The last samples as bars. Each history has a scale of its own, from 0 to its greatest sample.
fn bars(samples: &[Option<f64>], width: usize) -> String {
    const LEVELS: [&str; 8] = [
        bar::ONE_EIGHTH,
        bar::ONE_QUARTER,
        bar::THREE_EIGHTHS,
        bar::HALF,
        bar::FIVE_EIGHTHS,
        bar::THREE_QUARTERS,
        bar::SEVEN_EIGHTHS,
        bar::FULL,
    ];
    let shown = &samples[samples.len().saturating_sub(width)..];
    let greatest = shown.iter().flatten().copied().fold(0.0, f64::max);
    let mut text = " ".repeat(width - shown.len());
    for sample in shown {
        text.push_str(match sample {
            None => " ",
            Some(sample) if greatest > 0.0 => {
                let level = (sample.max(0.0) / greatest * (LEVELS.len() - 1) as f64).round() as usize;
                LEVELS[level.min(LEVELS.len() - 1)]
            }
            Some(_) => LEVELS[0],
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bars_end_with_the_last_sample_and_leave_gaps() {
        assert_eq!(bars(&[Some(0.0), None, Some(7.0)], 5), "  ▁ █");
        assert_eq!(bars(&[Some(9.0), Some(1.0), Some(2.0)], 2), "▅█");
        assert_eq!(bars(&[Some(0.0), Some(0.0)], 2), "▁▁");
        assert_eq!(bars(&[], 3), "   ");
    }

    proptest! {
        #[test]
        fn columns_never_need_more_than_there_is(width in 0u16..400, ranks in proptest::collection::vec(0u8..4, 1..12)) {
            let columns: Vec<Column<()>> = ranks
                .iter()
                .map(|rank| Column { name: "X", width: 9, rank: *rank, value: |(), _| Value::Number(None, 0) })
                .collect();
            let kinds = vec![Value::Number(None, 0); columns.len()];
            let fitted = fit(&columns, &kinds, width);
            let needed: u16 = fitted.iter().map(|(_, width)| width + 1).sum::<u16>() - 1;
            prop_assert!(needed <= width, "{needed} of {width}");
            prop_assert!(fitted.is_sorted() && !fitted.is_empty());
        }

        #[test]
        fn bars_are_as_wide_as_their_column(samples in proptest::collection::vec(proptest::option::of(-1e9f64..1e300), 0..80), width in 0usize..50) {
            prop_assert_eq!(bars(&samples, width).chars().count(), width);
        }
    }
}
