//! The keys, and the words that the tables use.

use ratatui::text::{Line, Text};

use super::theme::{Meaning, Theme};
use crate::top::keys::Mode;
use crate::top::model::Model;

const HELP: &str = "\
 q, Ctrl-C     end                        ?            this help; Esc leaves it
 Tab, 1 2 3    processes, services, watchers that lag
 arrows, PgUp, PgDn, Home, End            select a row; its details stand below
 s, S          sort by the next column, by the one before      r  turn round
 /             show only rows with a text; Enter keeps it, Esc shows all again

 RATE       pushes of a gateway, requests of a control plane; each row has its
            own scale, the last sample is on the right, a gap is no answer
 P99 MS     from the commit of a change to its write, in 99 of 100 cases
 LAG        the same over time
 PENDING    pushes that wait to be written to their watchers
 RESYNC/S   providers whose state a gateway had to ask for again
 SLOW/MIN   times that a watcher did not take everything at once
 MERGE/MIN  times that a watcher fell so far behind that its events are merged
 STALE S    seconds since the last bookmark      QUEUE  of the fullest shard
 CHANGES    of instances, in the last minute

 A process that does not answer stands first, in every order.";

/// The help.
pub(super) fn text(theme: Theme) -> Text<'static> {
    let mut lines = vec![Line::styled("Keys and words", theme.of(Meaning::Focus)), Line::raw("")];
    lines.extend(HELP.lines().map(Line::raw));
    Text::from(lines)
}

/// The last line: the keys that are most needed.
pub(super) fn foot(model: &Model, theme: Theme) -> Line<'static> {
    let keys = match model.mode() {
        Mode::Filter => {
            let filter = &model.choice(model.focus).filter;
            return Line::raw(format!("/{filter}_   Enter keeps the filter, Esc shows everything"));
        }
        Mode::Help => "q end   ? or Esc back to the tables",
        Mode::Tables => "q end  ? help  Tab next table  s sort  r turn round  / filter  arrows select",
    };
    let every = humantime::format_duration(model.every);
    Line::styled(format!("{keys}  every {every}"), theme.of(Meaning::Quiet))
}
