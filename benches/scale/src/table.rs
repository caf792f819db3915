//! Tables as Markdown, and figures as people read them.

/// Rows below their heads.
#[derive(Clone, Debug)]
pub struct Table {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one.
    pub fn new(heads: &[&str]) -> Self {
        Self { heads: heads.iter().map(|head| (*head).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let rule: Vec<String> = self.heads.iter().map(|_| "---".to_owned()).collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{}{rows}", line(&self.heads), line(&rule))
    }
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// Three digits, thousands apart.
pub fn figure(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if value < 100.0 {
        let digits = (2 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
        let text = format!("{value:.digits$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        return text.to_owned();
    }
    let magnitude = 10_f64.powf(value.log10().floor() - 2.0);
    let rounded = format!("{:.0}", (value / magnitude).round() * magnitude);
    let mut text = String::new();
    for (place, digit) in rounded.chars().enumerate() {
        if place > 0 && (rounded.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A whole number, thousands apart.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Microseconds as milliseconds, or seconds when they are many.
pub fn time(us: f64) -> String {
    if us >= 1e6 { format!("{} s", figure(us / 1e6)) } else { format!("{} ms", figure(us / 1e3)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_thousands_apart() {
        let told: Vec<String> =
            [0.0, 0.0123456, 1.0, 12.34, 99.99, 123.4, 1_234_567.0].map(figure).into_iter().collect();
        assert_eq!(told, ["0", "0.0123", "1", "12.3", "100", "123", "1 230 000"]);
        assert_eq!(count(1_000_000), "1 000 000");
        assert_eq!(count(999), "999");
        assert_eq!((time(1500.0), time(2_500_000.0)), ("1.5 ms".to_owned(), "2.5 s".to_owned()));
    }
}
