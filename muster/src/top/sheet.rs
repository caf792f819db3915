//! Tables that are sorted by a column and filtered by a text. Pure.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::model::Moment;
use crate::screen::harmless;

/// Samples of a history: two minutes at one every two seconds.
const KEPT: usize = 60;

/// The last samples of a figure, the oldest first. A sample that is missing is kept as such.
#[derive(Clone, Debug, Default)]
pub(super) struct History(VecDeque<Option<f64>>);

impl History {
    pub(super) fn push(&mut self, sample: Option<f64>) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(sample.filter(|sample| sample.is_finite()));
    }

    pub(super) fn samples(&self) -> Vec<Option<f64>> {
        self.0.iter().copied().collect()
    }
}

/// The content of a cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A name or a word.
    Text(String),
    /// A figure with so many digits behind the point; absent when it is not known.
    Number(Option<f64>, usize),
    /// A history, the oldest sample first.
    Trend(Vec<Option<f64>>),
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(harmless(text))
    }

    /// True where the greatest comes first unless the order is turned round.
    fn is_figure(&self) -> bool {
        !matches!(self, Self::Text(_))
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (a, b) => a.figure().total_cmp(&b.figure()),
        }
    }

    /// A figure to sort by. One that is absent is below all others.
    fn figure(&self) -> f64 {
        match self {
            Self::Text(_) => 0.0,
            Self::Number(figure, _) => figure.unwrap_or(f64::NEG_INFINITY),
            Self::Trend(samples) => {
                samples.iter().flatten().copied().max_by(f64::total_cmp).unwrap_or(f64::NEG_INFINITY)
            }
        }
    }
}

/// A column of a table.
pub(super) struct Column<T> {
    /// Its head.
    pub(super) name: &'static str,
    /// The least width.
    pub(super) width: u16,
    /// Columns of rank 0 are always there; of the others those of the greatest rank go first.
    pub(super) rank: u8,
    /// Its value for an item.
    pub(super) value: fn(&T, Moment) -> Value,
}

/// A thing that a row is about.
pub(super) trait Listed {
    /// Everything that the filter looks at.
    fn words(&self) -> String;
    /// True for a row that stands above the others in every order.
    fn is_urgent(&self) -> bool {
        false
    }
}

/// The order, the filter and the selection of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// The column to sort by.
    pub(super) sort: usize,
    /// The order is turned round.
    pub(super) is_reversed: bool,
    /// Rows that do not contain this text are left out.
    pub(super) filter: String,
    /// The row that is selected.
    pub(super) selected: usize,
}

impl Choice {
    /// The selection in a table of so many rows.
    pub(super) fn selected_of(&self, rows: usize) -> Option<usize> {
        rows.checked_sub(1).map(|last| self.selected.min(last))
    }
}

/// The items that the filter lets through, in order. Items that are equal there stay as they were.
pub(super) fn arrange<'a, T: Listed>(
    items: impl Iterator<Item = &'a T>,
    columns: &[Column<T>],
    choice: &Choice,
    now: Moment,
) -> Vec<&'a T> {
    let wanted = choice.filter.to_lowercase();
    let column = columns.get(choice.sort);
    let mut keyed = Vec::new();
    for item in items {
        if wanted.is_empty() || item.words().to_lowercase().contains(&wanted) {
            keyed.push((!item.is_urgent(), column.map(|column| (column.value)(item, now)), item));
        }
    }
    keyed.sort_by(|(a_calm, a, _), (b_calm, b, _)| {
        let order = match (a, b) {
            (Some(a), Some(b)) if a.is_figure() != choice.is_reversed => b.order(a),
            (Some(a), Some(b)) => a.order(b),
            _ => Ordering::Equal,
        };
        a_calm.cmp(b_calm).then(order)
    });
    keyed.into_iter().map(|(_, _, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug)]
    struct Item {
        name: String,
        figure: Option<f64>,
        is_urgent: bool,
    }

    impl Listed for Item {
        fn words(&self) -> String {
            self.name.clone()
        }

        fn is_urgent(&self) -> bool {
            self.is_urgent
        }
    }

    const COLUMNS: [Column<Item>; 2] = [
        Column { name: "NAME", width: 4, rank: 0, value: |item, _| Value::text(&item.name) },
        Column { name: "FIGURE", width: 6, rank: 0, value: |item, _| Value::Number(item.figure, 0) },
    ];

    fn names(items: &[Item], choice: &Choice) -> String {
        let arranged = arrange(items.iter(), &COLUMNS, choice, Moment::default());
        arranged.iter().map(|item| item.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn item(name: &str, figure: Option<f64>) -> Item {
        Item { name: name.to_owned(), figure, is_urgent: name == "urgent" }
    }

    #[test]
    fn figures_begin_with_the_greatest_and_names_with_a() {
        let items = [item("c", Some(1.0)), item("urgent", None), item("a", Some(3.0)), item("b", None)];
        let mut choice = Choice::default();
        assert_eq!(names(&items, &choice), "urgent a b c");
        choice.sort = 1;
        assert_eq!(names(&items, &choice), "urgent a c b");
        choice.is_reversed = true;
        assert_eq!(names(&items, &choice), "urgent b c a");
        choice.sort = 7;
        assert_eq!(names(&items, &choice), "urgent c a b", "no such column, no other order");
    }

    proptest! {
        #[test]
        fn the_filter_takes_and_the_order_keeps_every_item(
            made in proptest::collection::vec(("[a-d]{1,3}", proptest::option::of(any::<f64>()), any::<bool>()), 0..30),
            sort in 0usize..3, is_reversed in any::<bool>(), filter in "[A-D]{0,1}",
        ) {
            let items: Vec<Item> =
                made.into_iter().map(|(name, figure, is_urgent)| Item { name, figure, is_urgent }).collect();
            let choice = Choice { sort, is_reversed, filter: filter.clone(), selected: 0 };
            let shown = arrange(items.iter(), &COLUMNS, &choice, Moment::default());
            let wanted = items.iter().filter(|item| item.name.contains(&filter.to_lowercase())).count();
            prop_assert_eq!(shown.len(), wanted);
            prop_assert!(shown.is_sorted_by_key(|item| !item.is_urgent), "urgent ones come first");
        }

        #[test]
        fn a_history_is_bounded_and_ends_with_the_last(samples in proptest::collection::vec(any::<f64>(), 1..200)) {
            let mut history = History::default();
            for sample in &samples {
                history.push(Some(*sample));
            }
            let kept = history.samples();
            prop_assert_eq!(kept.len(), samples.len().min(KEPT));
            let last = samples.last().copied().filter(|last| last.is_finite());
            prop_assert_eq!(kept.last().copied().flatten(), last);
        }
    }
}
