//! Pictures of whole screens.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use crate::top::keys::Action;
use crate::top::model::tests::{at, fleet, gateway};
use crate::top::model::{Connection, Facts, Model};

/// The page with a picture of the view.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/top.md");

fn screen(model: &Model, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("is made");
    terminal.draw(|frame| super::draw(model, true, frame)).expect("is drawn");
    terminal
}

fn lines(model: &Model, width: u16, height: u16) -> Vec<String> {
    let terminal = screen(model, width, height);
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
}

fn text(model: &Model, width: u16, height: u16) -> String {
    lines(model, width, height).join("\n")
}

fn event(model: &mut Model, id: u32, status: &str, rev: u32) {
    let frame = format!(
        r#"{{"action":"UPDATE","key":{{"appId":"shop","serviceName":"order","version":"1.{}.0"}},"rev":{rev},
            "instance":{{"instanceId":"{id}","status":"{status}"}}}}"#,
        id % 3
    );
    model.registry.apply(&serde_json::from_str(&frame).expect("is a frame"), model.now);
    model.server.heard = Some(model.now);
}

/// A small fleet in which one gateway does not answer.
fn example() -> Model {
    let mut model = fleet(4);
    model.server.connection = Connection::Live;
    model.server.facts = Facts {
        planes: Some(Ok(vec!["UP".to_owned(), "UP".to_owned()])),
        release: Some("0.1.0".to_owned()),
        alarms: Some(Ok(Vec::new())),
        held: Some(Err("not permitted".to_owned())),
    };
    let mut pushes = [100, 120, 140, 160];
    for (round, more) in [0, 30, 10, 60, 90, 20, 0, 70].iter().enumerate() {
        model.now = at(4 + 2 * round as u64);
        for number in [0, 1, 3u32] {
            let counted = &mut pushes[number as usize];
            *counted += 50 + more * number;
            model.observe(number as usize, Ok(gateway(1000 + 10 * number, *counted)));
        }
        model.observe(2, Err("connection refused".to_owned()));
        event(&mut model, round as u32, if round == 5 { "DOWN" } else { "UP" }, 1200 + round as u32);
    }
    model
}

#[test]
fn eighty_columns_and_24_rows_show_one_table_at_a_time() {
    let mut model = example();
    let shown = text(&model, 80, 24);
    for word in [
        "1 Processes (4)",
        "WATCHERS",
        "PUSH/S",
        "P99 MS",
        "REQ/S",
        "10.0.0.3:30101",
        "q end",
        "Revision 1207",
    ] {
        assert!(shown.contains(word), "{word} is missing:\n{shown}");
    }
    assert!(
        shown.contains("10.0.0.2:30101        no answer since 08:00:04 UTC (14s): connection refused"),
        "{shown}"
    );
    assert!(!shown.contains("2 Services"), "{shown}");
    model.act(&Action::NextPanel);
    let shown = text(&model, 80, 24);
    assert!(shown.contains("2 Services, most changed (3)  by CHANGES/MIN"), "{shown}");
    assert!(shown.contains("shop/order") && shown.contains("CHANGES/MIN"), "{shown}");
    model.act(&Action::NextPanel);
    let shown = text(&model, 80, 24);
    for word in ["3 Watchers that lag (4)", "PENDING", "SLOW/MIN", "MERGE/MIN", "LAG"] {
        assert!(shown.contains(word), "{word} is missing:\n{shown}");
    }
}

#[test]
fn two_hundred_columns_and_50_rows_show_50_processes() {
    let mut model = fleet(50);
    model.observe(49, Err("no reply within 2s".to_owned()));
    let shown = text(&model, 200, 50);
    for number in 0..50 {
        assert!(shown.contains(&format!("10.0.0.{number}:30101 ")), "{number} is missing:\n{shown}");
    }
    for panel in ["1 Processes (50)", "2 Services", "3 Watchers that lag (50)"] {
        assert!(shown.contains(panel), "{panel} is missing:\n{shown}");
    }
    assert!(shown.contains("Processes 50, 1 without answer"), "{shown}");
}

#[test]
fn the_selected_process_is_in_sight_and_in_words() {
    let mut model = fleet(50);
    model.act(&Action::Last);
    let shown = lines(&model, 80, 24);
    assert!(shown.iter().any(|line| line.starts_with("10.0.0.9:30101")), "{shown:#?}");
    assert!(shown[22].starts_with("10.0.0.9:30101 · edge · release 0.1.0"), "{shown:#?}");
    model.act(&Action::First);
    assert!(lines(&model, 80, 24)[22].starts_with("10.0.0.0:30101"), "the first one is shown again");
}

#[test]
fn nothing_at_all_says_how_to_go_on() {
    let model = fleet(0);
    for (width, height) in [(80, 24), (200, 50), (40, 8), (39, 8), (1, 1)] {
        let shown = text(&model, width, height);
        if width >= 80 {
            assert!(shown.contains("Connecting…") && shown.contains("--admin"), "{shown}");
        }
    }
}

#[test]
fn the_help_explains_the_keys_in_80_columns() {
    let mut model = example();
    model.act(&Action::Help);
    let shown = text(&model, 80, 24);
    for line in super::help::text(super::Theme::new(true)).lines {
        let line = line.to_string();
        assert!(line.chars().count() <= 80, "too long: {line}");
        assert!(shown.contains(line.trim_end()), "missing: {line}\n{shown}");
    }
}

#[test]
fn without_colours_nothing_is_coloured() {
    let model = example();
    let mut terminal = Terminal::new(TestBackend::new(200, 50)).expect("is made");
    terminal.draw(|frame| super::draw(&model, false, frame)).expect("is drawn");
    let plain = |cell: &ratatui::buffer::Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
    assert!(terminal.backend().buffer().content().iter().all(plain));
    assert!(!screen(&model, 200, 50).backend().buffer().content().iter().all(plain), "with colours some are");
}

#[test]
fn names_cannot_control_the_terminal() {
    let mut model = example();
    let frame = r#"{"action":"UPDATE","key":{"appId":"a","serviceName":"\u001b[2Jevil","version":"1"},"rev":9,
        "instance":{"instanceId":"1","status":"\u001b[31m"}}"#;
    model.registry.apply(&serde_json::from_str(frame).expect("is a frame"), model.now);
    model.server.connection = Connection::Refused("\u{1b}[2J".to_owned());
    let shown = text(&model, 200, 50);
    assert!(shown.contains("evil") && !shown.contains('\u{1b}'), "{shown}");
}

/// With MUSTER_UPDATE_DOCS set the page is written instead.
#[test]
fn the_picture_in_the_documents_is_the_view() {
    let page = std::fs::read_to_string(PAGE).expect("the page is there");
    let (before, rest) = page.split_once("<!-- begin picture -->\n").expect("the page has a place for it");
    let (_, after) = rest.split_once("<!-- end picture -->").expect("the place has an end");
    let picture = text(&example(), 110, 44);
    let current =
        format!("{before}<!-- begin picture -->\n```text\n{picture}\n```\n<!-- end picture -->{after}");
    if std::env::var_os("MUSTER_UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &current).expect("is written");
    }
    let stale = "docs/top.md is stale: MUSTER_UPDATE_DOCS=1 cargo test -p muster the_picture writes it";
    assert!(current == std::fs::read_to_string(PAGE).expect("is there"), "{stale}");
}
