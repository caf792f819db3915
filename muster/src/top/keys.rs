//! From a key to what it means. Pure.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// The state of the view in which keys differ in meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Tables are shown.
    Tables,
    /// The keys are shown.
    Help,
    /// A filter is typed.
    Filter,
}

/// The meaning of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// End the view.
    Quit,
    /// Show the keys, or stop showing them.
    Help,
    /// Go to the panel after this one.
    NextPanel,
    /// Go to the panel before this one.
    PreviousPanel,
    /// Go to the panel with this number, from 0.
    Panel(usize),
    /// Sort by the next column.
    NextSort,
    /// Sort by the column before.
    PreviousSort,
    /// Turn the order round.
    Reverse,
    /// Begin to type a filter.
    Filter,
    /// Add a character to the filter.
    Type(char),
    /// Take the last character of the filter away.
    Erase,
    /// Keep the filter.
    Accept,
    /// Leave the help, or show everything again.
    Clear,
    /// Move the selection by so many rows.
    Move(isize),
    /// Select the first row.
    First,
    /// Select the last row.
    Last,
}

/// Rows of a page.
const PAGE: isize = 20;

/// The meaning of a key. `None` when it has none.
pub(super) fn action(key: KeyEvent, mode: Mode) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Quit),
            KeyCode::Char('u') if mode == Mode::Filter => Some(Action::Clear),
            _ => None,
        };
    }
    match mode {
        Mode::Tables => in_tables(key.code),
        Mode::Help => match key.code {
            KeyCode::Char('q') => Some(Action::Quit),
            KeyCode::Char('?') => Some(Action::Help),
            KeyCode::Esc | KeyCode::Enter => Some(Action::Clear),
            _ => None,
        },
        Mode::Filter => match key.code {
            KeyCode::Enter => Some(Action::Accept),
            KeyCode::Esc => Some(Action::Clear),
            KeyCode::Backspace => Some(Action::Erase),
            KeyCode::Char(character) => Some(Action::Type(character)),
            _ => None,
        },
    }
}

fn in_tables(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Char('q') => Action::Quit,
        KeyCode::Char('?') | KeyCode::F(1) => Action::Help,
        KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => Action::NextPanel,
        KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => Action::PreviousPanel,
        KeyCode::Char('1') => Action::Panel(0),
        KeyCode::Char('2') => Action::Panel(1),
        KeyCode::Char('3') => Action::Panel(2),
        KeyCode::Char('s') => Action::NextSort,
        KeyCode::Char('S') => Action::PreviousSort,
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Char('/') => Action::Filter,
        KeyCode::Esc => Action::Clear,
        KeyCode::Up | KeyCode::Char('k') => Action::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Move(1),
        KeyCode::PageUp => Action::Move(-PAGE),
        KeyCode::PageDown => Action::Move(PAGE),
        KeyCode::Home | KeyCode::Char('g') => Action::First,
        KeyCode::End | KeyCode::Char('G') => Action::Last,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(code: KeyCode, mode: Mode) -> Option<Action> {
        action(KeyEvent::new(code, KeyModifiers::NONE), mode)
    }

    #[test]
    fn control_c_ends_the_view_in_every_mode() {
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for mode in [Mode::Tables, Mode::Help, Mode::Filter] {
            assert_eq!(action(key, mode), Some(Action::Quit));
        }
    }

    #[test]
    fn letters_are_text_while_a_filter_is_typed() {
        assert_eq!(press(KeyCode::Char('q'), Mode::Tables), Some(Action::Quit));
        assert_eq!(press(KeyCode::Char('q'), Mode::Filter), Some(Action::Type('q')));
        assert_eq!(press(KeyCode::Char('?'), Mode::Filter), Some(Action::Type('?')));
        assert_eq!(press(KeyCode::Esc, Mode::Filter), Some(Action::Clear));
    }

    #[test]
    fn a_released_key_means_nothing() {
        let mut key = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        key.kind = KeyEventKind::Release;
        assert_eq!(action(key, Mode::Tables), None);
    }
}
