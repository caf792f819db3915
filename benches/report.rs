//! Figures: a line of JSON each on standard output, a table on standard error.

use serde_json::{Map, Value, json};

use crate::usage::load_average;

/// The figures of one bench, all with the same columns.
pub struct Report {
    bench: &'static str,
    columns: Vec<&'static str>,
}

impl Report {
    /// Begins a table with these columns beside the first, which says what is measured.
    pub fn new(bench: &'static str, columns: &[&'static str]) -> Self {
        eprintln!("load of the machine before {bench}: {:.2}", load_average());
        eprint!("| {:<38} |", bench);
        columns.iter().for_each(|column| eprint!(" {column:>12} |"));
        eprint!("\n| {:-<38} |", "");
        columns.iter().for_each(|_| eprint!(" {:->11}: |", ""));
        eprintln!();
        Self { bench, columns: columns.to_vec() }
    }

    /// Adds a row; figures that make no sense there are `None`.
    pub fn row(&self, what: &str, figures: &[Option<f64>]) {
        eprint!("| {what:<38} |");
        let mut object = Map::new();
        for (column, figure) in self.columns.iter().zip(figures) {
            match figure {
                Some(figure) => {
                    eprint!(" {:>12} |", shown(*figure));
                    object.insert((*column).to_owned(), json!(figure));
                }
                None => eprint!(" {:>12} |", ""),
            }
        }
        eprintln!();
        object.insert("bench".to_owned(), json!(self.bench));
        object.insert("what".to_owned(), json!(what));
        object.insert("load".to_owned(), json!(load_average()));
        object.insert("optimised".to_owned(), json!(!cfg!(debug_assertions)));
        println!("{}", Value::Object(object));
    }
}

/// Three digits that count.
fn shown(figure: f64) -> String {
    match figure.abs() {
        large if large >= 100.0 => format!("{figure:.0}"),
        middle if middle >= 10.0 => format!("{figure:.1}"),
        middle if middle >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn figures_are_shown_with_three_digits_that_count() {
        assert_eq!([1234.5, 12.34, 1.234, 0.1234].map(shown), ["1234", "12.3", "1.23", "0.123"]);
    }
}
