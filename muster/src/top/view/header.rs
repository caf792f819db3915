//! The lines above the tables: the registry as a whole, in the console's words.

use ratatui::text::{Line, Span};

use super::theme::{Meaning, Theme};
use crate::screen::harmless;
use crate::top::model::{Answer, Asked, Connection, Model};

const BETWEEN: &str = " · ";

/// A piece of the header that is not broken.
struct Piece {
    text: String,
    meaning: Option<Meaning>,
}

/// The header in lines of this width, and in so many lines at most.
pub(super) fn lines(model: &Model, theme: Theme, width: u16, most: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut line: Vec<Span<'static>> = Vec::new();
    let mut used = 0;
    for piece in pieces(model) {
        let length = piece.text.chars().count();
        if !line.is_empty() && used + BETWEEN.chars().count() + length > usize::from(width) {
            lines.push(Line::from(std::mem::take(&mut line)));
            used = 0;
        }
        if !line.is_empty() {
            line.push(Span::raw(BETWEEN));
            used += BETWEEN.chars().count();
        }
        used += length;
        line.push(match piece.meaning {
            Some(meaning) => Span::styled(piece.text, theme.of(meaning)),
            None => Span::raw(piece.text),
        });
    }
    lines.push(Line::from(line));
    lines.truncate(most);
    lines
}

fn pieces(model: &Model) -> Vec<Piece> {
    let plain = |text: String| Piece { text, meaning: None };
    let bad = |text: String| Piece { text, meaning: Some(Meaning::Bad) };
    let server = &model.server;
    let registry = &model.registry;
    let facts = &server.facts;
    let mut pieces = vec![Piece {
        text: format!("muster top {}", harmless(&server.address)),
        meaning: Some(Meaning::Head),
    }];
    pieces.push(match &server.connection {
        Connection::Opening => plain("Connecting…".to_owned()),
        Connection::Live => Piece { text: "Live".to_owned(), meaning: Some(Meaning::Good) },
        Connection::Lost(sign) => bad(format!("Reconnecting… ({})", harmless(sign))),
        Connection::Refused(problem) => bad(format!("No changes: {}", harmless(problem))),
    });
    let silent =
        model.processes.iter().filter(|process| matches!(process.answer, Answer::Missing { .. })).count();
    let all = model.processes.len();
    pieces.push(match silent {
        0 => plain(format!("Processes {all}")),
        silent => bad(format!("Processes {all}, {silent} without answer")),
    });
    pieces.extend(facts.planes.as_ref().map(|planes| match planes {
        Ok(planes) => plain(format!("Control planes {}", counted(planes))),
        Err(problem) => plain(format!("Control planes: {}", harmless(problem))),
    }));
    pieces.extend(facts.release.as_ref().map(|release| plain(format!("Release {}", harmless(release)))));
    if let Some(heard) = server.heard {
        pieces.push(plain(format!("Last heard {} ago", model.now.age_of(heard))));
        pieces.push(plain(format!("Revision {}", registry.revision)));
        pieces.push(plain(format!("Confirmed revision {}", registry.confirmed)));
        pieces.push(plain(format!("Changes per second {:.1}", registry.changes_per_second(model.now))));
        let statuses: Vec<String> = registry
            .by_status
            .iter()
            .map(|(status, count)| format!("{count} {}", harmless(status)))
            .collect();
        let all: usize = registry.by_status.values().sum();
        pieces.push(plain(format!("Services with instances {}", registry.count())));
        let statuses = if statuses.is_empty() { String::new() } else { format!(": {}", statuses.join(", ")) };
        pieces.push(plain(format!("Instances {all}{statuses}")));
    }
    pieces.extend(facts.alarms.as_ref().map(|alarms| match alarms {
        Ok(alarms) if alarms.is_empty() => plain("Alarms 0".to_owned()),
        Ok(alarms) => bad(format!("Alarms {}: {}", alarms.len(), harmless(&alarms.join(", ")))),
        Err(problem) => plain(format!("Alarms: {}", harmless(problem))),
    }));
    pieces.extend(facts.held.as_ref().map(held));
    pieces
}

fn held(held: &Asked<usize>) -> Piece {
    let (text, meaning) = match held {
        Ok(0) => ("Held instances 0".to_owned(), None),
        Ok(held) => (format!("Held instances {held}"), Some(Meaning::Bad)),
        Err(problem) => (format!("Held instances: {}", harmless(problem)), None),
    };
    Piece { text, meaning }
}

/// The number of all, and of those with each status: `2: 2 UP`.
fn counted(statuses: &[String]) -> String {
    let mut kinds: Vec<&String> = statuses.iter().collect();
    kinds.sort();
    kinds.dedup();
    let each: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let count = statuses.iter().filter(|status| status == kind).count();
            format!("{count} {}", harmless(kind))
        })
        .collect();
    match each.is_empty() {
        true => "0".to_owned(),
        false => format!("{}: {}", statuses.len(), each.join(", ")),
    }
}
