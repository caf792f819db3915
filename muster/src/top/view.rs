//! From the model to a picture. Pure: everything is drawn into a buffer.

mod header;
mod help;
mod table;
mod theme;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;

use super::keys::Mode;
use super::model::{GATEWAYS, Model, PROCESSES, Panel};
use super::registry;
use table::Sheet;
use theme::{Meaning, Theme};

/// Rows of the tables from which on all of them are shown at once.
const ALL_PANELS: u16 = 30;
/// Rows that the tables below the processes have at least.
const LOWER: u16 = 12;
/// Width from which on two tables stand side by side.
const SIDE_BY_SIDE: u16 = 166;
/// The least size in which anything can be read.
const LEAST: (u16, u16) = (40, 8);

/// Draws everything.
pub(super) fn draw(model: &Model, has_colours: bool, frame: &mut Frame<'_>) {
    let theme = Theme::new(has_colours);
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let (width, height) = LEAST;
        frame.render_widget(Line::raw(format!("at least {width} x {height}, please; q ends")), area);
        return;
    }
    let most = match model.mode() {
        Mode::Help => 1,
        _ if area.height < 16 => 2,
        _ => 4,
    };
    let head = header::lines(model, theme, area.width, most);
    let parts = [
        Constraint::Length(u16::try_from(head.len()).unwrap_or(4)),
        Constraint::Min(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ];
    let [top, body, detail, foot] = Layout::vertical(parts).areas(area);
    frame.render_widget(ratatui::text::Text::from(head), top);
    if model.mode() == Mode::Help {
        frame.render_widget(help::text(theme), body);
    } else {
        tables(model, theme, body, frame);
    }
    let words = if model.mode() == Mode::Help { None } else { self::detail(model) }.unwrap_or_default();
    frame.render_widget(Line::styled(crate::screen::harmless(&words), theme.of(Meaning::Quiet)), detail);
    frame.render_widget(help::foot(model, theme), foot);
}

/// The selected row in words.
fn detail(model: &Model) -> Option<String> {
    let choice = model.choice(model.focus);
    match model.focus {
        Panel::Processes => {
            let rows = model.processes();
            Some(rows.get(choice.selected_of(rows.len())?)?.detail(model.now))
        }
        Panel::Services => {
            let rows = model.services();
            Some(rows.get(choice.selected_of(rows.len())?)?.detail(model.now))
        }
        Panel::Watchers => {
            let rows = model.gateways();
            Some(rows.get(choice.selected_of(rows.len())?)?.detail(model.now))
        }
    }
}

fn tables(model: &Model, theme: Theme, body: Rect, frame: &mut Frame<'_>) {
    if body.height < ALL_PANELS {
        panel(model, theme, model.focus, body, frame);
        return;
    }
    let rows = model.processes().len().max(1);
    let least = body.height - LOWER;
    let needed = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(3);
    // In two columns where one has no room.
    let wanted = if needed(rows) > least && table::columns_in(body.width) == 2 {
        needed(rows.div_ceil(2))
    } else {
        needed(rows)
    };
    let parts = [Constraint::Length(wanted.min(least)), Constraint::Min(LOWER)];
    let [upper, lower] = Layout::vertical(parts).areas(body);
    panel(model, theme, Panel::Processes, upper, frame);
    let halves = [Constraint::Fill(1), Constraint::Fill(1)];
    let [services, watchers] = if body.width >= SIDE_BY_SIDE {
        Layout::horizontal(halves).spacing(2).areas(lower)
    } else {
        Layout::vertical(halves).areas(lower)
    };
    panel(model, theme, Panel::Services, services, frame);
    panel(model, theme, Panel::Watchers, watchers, frame);
}

fn panel(model: &Model, theme: Theme, panel: Panel, area: Rect, frame: &mut Frame<'_>) {
    let sheet = Sheet {
        panel,
        choice: model.choice(panel),
        is_in_focus: model.focus == panel,
        is_typed: model.focus == panel && model.mode() == Mode::Filter,
        now: model.now,
        theme,
    };
    match panel {
        Panel::Processes => {
            let empty = "No process yet: --admin names addresses that serve /metrics.";
            let rows = model.processes();
            sheet.draw(&rows, &PROCESSES, |process, now| process.problem(now), empty, area, frame);
        }
        Panel::Services => {
            let empty = "No service has an instance, or the registry does not tell.";
            sheet.draw(&model.services(), &registry::COLUMNS, |_, _| None, empty, area, frame);
        }
        Panel::Watchers => {
            let empty = "No gateway has answered: control planes have no watchers.";
            let rows = model.gateways();
            sheet.draw(&rows, &GATEWAYS, |process, now| process.problem(now), empty, area, frame);
        }
    }
}

#[cfg(test)]
mod tests;
