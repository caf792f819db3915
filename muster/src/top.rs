//! The full-screen view of `muster top`: processes, services and watchers that lag.
//!
//! ```text
//! /metrics, watch, /health, alarms ─▶ source ─▶ model ─▶ view ─▶ terminal
//!                                         keys ─▶ ┘
//! ```
//!
//! In: admin addresses and a registry. Out: a picture, a few times a second. Only `source` and `terminal` do
//! input and output. The names and units of the figures of the registry are those of the console.

mod keys;
mod model;
mod registry;
mod sheet;
mod source;
mod terminal;
mod view;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use crossterm::event::{Event, EventStream};
use futures_util::{FutureExt as _, StreamExt as _};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use shared::clock::Clock;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::failure::CommandFailure;
use model::{Model, Moment};
use source::Report;
pub(crate) use source::{Sources, scrape};
use terminal::FullScreen;

/// Reports that wait for the picture at most. A source that is faster waits.
const MAX_WAITING: usize = 1024;
/// Pause between two pictures while reports come in. Keys are answered at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Shows the view until a key, or `end`, ends it.
///
/// # Errors
/// The terminal cannot be used.
pub(crate) async fn run(
    sources: Sources,
    has_colours: bool,
    end: impl Future<Output = Result<(), CommandFailure>>,
) -> Result<(), CommandFailure> {
    let mut end = pin!(end);
    // From its first poll on, a signal no longer ends the process by itself. That must be so before the
    // terminal is changed.
    if let Some(result) = end.as_mut().now_or_never() {
        return result;
    }
    let clock = Watch { clock: Clock::system(), start: Instant::now() };
    let mut model = Model::new(sources.server(), sources.every(), clock.now());
    let (sender, mut reports) = mpsc::channel(MAX_WAITING);
    let mut polling = pin!(source::poll(sources, sender));
    let _full_screen = FullScreen::enter()?;
    let mut terminal = Terminal::new(CrosstermBackend::new(std::io::stdout()))?;
    let mut events = EventStream::new();
    // Ages grow on the screen also while nothing comes in.
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_due = true;
    let mut has_news = false;
    let mut drawn = Instant::now();
    loop {
        if is_due {
            model.now = clock.now();
            terminal.draw(|frame| view::draw(&model, has_colours, frame))?;
            drawn = Instant::now();
            is_due = false;
            has_news = false;
        }
        tokio::select! {
            biased;
            result = &mut end => return result,
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) => {
                    if let Some(action) = keys::action(key, model.mode()) {
                        if action == keys::Action::Quit {
                            return Ok(());
                        }
                        model.act(&action);
                        is_due = true;
                    }
                }
                // The size of the terminal is asked for at every picture.
                Some(Ok(_)) => is_due = true,
                Some(Err(e)) => return Err(e.into()),
                // The terminal is gone.
                None => return Ok(()),
            },
            _ = second.tick() => is_due = true,
            () = sleep_until(drawn + PAUSE), if has_news => is_due = true,
            Some(report) = reports.recv() => {
                model.now = clock.now();
                apply(&mut model, report);
                has_news = true;
            }
            () = &mut polling => {}
        }
    }
}

fn apply(model: &mut Model, report: Report) {
    match report {
        Report::Found { name } => model.found(name),
        Report::Process { index, outcome } => model.observe(index, outcome),
        Report::Connection(connection) => model.server.connection = connection,
        Report::Frame(frame) => {
            model.server.heard = Some(model.now);
            model.registry.apply(&frame, model.now);
        }
        Report::Facts(facts) => model.server.facts = facts,
    }
}

/// The two clocks: one that never jumps, and the time of day.
struct Watch {
    clock: Clock,
    start: Instant,
}

impl Watch {
    fn now(&self) -> Moment {
        Moment { running: self.start.elapsed(), unix: self.clock.seconds() }
    }
}
