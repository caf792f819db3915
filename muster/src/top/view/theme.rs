//! Colours, and what stands for them without colours.

use ratatui::style::{Color, Modifier, Style};

/// The meaning of a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The head of a table.
    Head,
    /// The title of the table that the keys work on.
    Focus,
    /// The selected row.
    Selected,
    /// A state that is as it should be.
    Good,
    /// A state that needs attention.
    Bad,
    /// A history.
    Trend,
    /// An explanation.
    Quiet,
}

/// The way in which meanings are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    has_colours: bool,
}

impl Theme {
    pub(super) fn new(has_colours: bool) -> Self {
        Self { has_colours }
    }

    pub(super) fn of(self, meaning: Meaning) -> Style {
        let (modifier, colour) = match meaning {
            Meaning::Head => (Modifier::BOLD, None),
            Meaning::Focus => (Modifier::BOLD | Modifier::UNDERLINED, Some(Color::Cyan)),
            Meaning::Selected => (Modifier::REVERSED, None),
            Meaning::Good => (Modifier::empty(), Some(Color::Green)),
            Meaning::Bad => (Modifier::BOLD, Some(Color::Red)),
            Meaning::Trend => (Modifier::empty(), Some(Color::Cyan)),
            Meaning::Quiet => (Modifier::DIM, None),
        };
        let style = Style::new().add_modifier(modifier);
        match colour {
            Some(colour) if self.has_colours => style.fg(colour),
            _ => style,
        }
    }
}
