//! Everything that the view shows: processes with their histories, the registry, and the choices of the
//! viewer. Pure: the time is an argument.

use std::time::Duration;

use host::figures::{Figures, STAGES};
use host::telemetry::scrape::Scrape;

use super::keys::{Action, Mode};
use super::registry::{self, Registry};
use super::sheet::{self, Choice, Column, History, Listed, Value};

/// A point in time, by two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// Time since the start, which never jumps.
    pub(super) running: Duration,
    /// Unix time in seconds, for people.
    pub(super) unix: u64,
}

impl Moment {
    /// The time since an earlier moment, for people.
    pub(super) fn age_of(self, earlier: Self) -> String {
        let age = self.running.saturating_sub(earlier.running);
        humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
    }

    /// The time of day.
    fn clock(self) -> String {
        let time = std::time::UNIX_EPOCH + Duration::from_secs(self.unix);
        let text = humantime::format_rfc3339_seconds(time).to_string();
        text.get(11..19).unwrap_or_default().to_owned()
    }
}

/// The answer of a process to the last question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// None is due yet.
    Awaited,
    /// It has answered.
    Given,
    /// It does not answer, since when and why not.
    Missing { since: Moment, problem: String },
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    /// Its last answer.
    pub(super) answer: Answer,
    figures: Figures,
    rates: History,
    lags: History,
    last: Option<(Moment, Scrape)>,
}

impl Process {
    /// The line that stands in the place of its figures while it does not answer.
    pub(super) fn problem(&self, now: Moment) -> Option<String> {
        match &self.answer {
            Answer::Awaited => Some("no answer yet".to_owned()),
            Answer::Given => None,
            Answer::Missing { since, problem } => {
                let (clock, age) = (since.clock(), now.age_of(*since));
                Some(format!("no answer since {clock} UTC ({age}): {problem}"))
            }
        }
    }

    /// Everything that the table may have no room for, in one line.
    pub(super) fn detail(&self, now: Moment) -> String {
        let figures = &self.figures;
        let mut parts = vec![self.name.clone()];
        if let Some(problem) = self.problem(now) {
            parts.push(problem);
            return parts.join(" · ");
        }
        parts.push(figures.role.to_owned());
        parts.extend(figures.release.as_ref().map(|release| format!("release {release}")));
        let mut add = |name: &str, figure: Option<f64>, digits: usize| {
            parts.extend(figure.map(|figure| format!("{name} {figure:.digits$}")));
        };
        add("revision", figures.revision, 0);
        add("resyncs/s", figures.resyncs_per_second, 2);
        add("cores", figures.cores, 2);
        add("MiB", figures.memory_mib, 0);
        add("seconds since the last bookmark", figures.staleness_seconds, 1);
        add("divergences", figures.divergences, 0);
        for (stage, _) in STAGES {
            add(&format!("{stage} p99 ms"), figures.p99_of(stage), 2);
        }
        for dialect in &figures.dialects {
            add(&format!("{} clients", dialect.dialect), dialect.clients, 0);
            add(&format!("{} answers/s", dialect.dialect), dialect.answers_per_second, 1);
        }
        parts.join(" · ")
    }
}

impl Listed for Process {
    fn words(&self) -> String {
        match &self.answer {
            Answer::Missing { problem, .. } => format!("{} no answer {problem}", self.name),
            _ => format!("{} {}", self.name, self.figures.role),
        }
    }

    fn is_urgent(&self) -> bool {
        matches!(self.answer, Answer::Missing { .. })
    }
}

/// A column of figures of a process.
macro_rules! figure {
    ($name:literal, $width:literal, $rank:literal, $figure:ident, $digits:literal) => {
        Column {
            name: $name,
            width: $width,
            rank: $rank,
            value: |process: &Process, _| Value::Number(process.figures.$figure, $digits),
        }
    };
}

/// A column with the 99th percentile of a stage.
macro_rules! stage {
    ($name:literal, $width:literal, $rank:literal, $stage:literal) => {
        Column {
            name: $name,
            width: $width,
            rank: $rank,
            value: |process: &Process, _| Value::Number(process.figures.p99_of($stage), 2),
        }
    };
}

const LAG: Column<Process> =
    Column { name: "LAG", width: 7, rank: 3, value: |process, _| Value::Trend(process.lags.samples()) };

/// The columns of the processes.
pub(super) const PROCESSES: [Column<Process>; 15] = [
    Column { name: "PROCESS", width: 21, rank: 0, value: |process, _| Value::text(&process.name) },
    Column { name: "ROLE", width: 9, rank: 0, value: |process, _| Value::text(process.figures.role) },
    figure!("WATCHERS", 8, 2, watchers, 0),
    figure!("PUSH/S", 7, 1, pushes_per_second, 0),
    figure!("REQ/S", 7, 1, requests_per_second, 0),
    Column { name: "RATE", width: 7, rank: 1, value: |process, _| Value::Trend(process.rates.samples()) },
    figure!("P99 MS", 7, 1, push_p99_ms, 2),
    LAG,
    figure!("PENDING", 7, 4, pending, 0),
    figure!("RESYNC/S", 8, 6, resyncs_per_second, 2),
    figure!("REVISION", 9, 3, revision, 0),
    figure!("CORES", 5, 5, cores, 2),
    figure!("MIB", 5, 5, memory_mib, 0),
    stage!("COMMIT MS", 9, 7, "commit"),
    stage!("PUBLISH MS", 10, 7, "publish"),
];

/// The columns of the gateways: how far their watchers are behind.
pub(super) const GATEWAYS: [Column<Process>; 13] = [
    Column { name: "GATEWAY", width: 21, rank: 0, value: |process, _| Value::text(&process.name) },
    figure!("WATCHERS", 8, 0, watchers, 0),
    figure!("P99 MS", 7, 0, push_p99_ms, 2),
    Column { width: 6, rank: 1, ..LAG },
    figure!("PENDING", 7, 0, pending, 0),
    figure!("SLOW/MIN", 8, 0, slow_per_minute, 1),
    figure!("MERGE/MIN", 9, 1, merging_per_minute, 1),
    figure!("STALE S", 7, 2, staleness_seconds, 1),
    figure!("QUEUE", 5, 3, shard_queue, 0),
    stage!("BUS MS", 7, 4, "bus"),
    stage!("WRITE MS", 8, 4, "write"),
    stage!("FORWARD MS", 10, 5, "forward"),
    figure!("DIVERGED", 8, 6, divergences, 0),
];
/// The column that the gateways are sorted by at first.
const MOST_BEHIND: usize = 2;

/// The tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Panel {
    /// Control planes and gateways.
    Processes,
    /// Services, the most changed first.
    Services,
    /// Gateways, those first whose watchers lag.
    Watchers,
}

impl Panel {
    /// All of them, in the order of their digits.
    pub(super) const ALL: [Self; 3] = [Self::Processes, Self::Services, Self::Watchers];

    /// The head of the table.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Processes => "Processes",
            Self::Services => "Services, most changed",
            Self::Watchers => "Watchers that lag",
        }
    }

    fn columns(self) -> usize {
        match self {
            Self::Processes => PROCESSES.len(),
            Self::Services => registry::COLUMNS.len(),
            Self::Watchers => GATEWAYS.len(),
        }
    }
}

/// The connection of the view to the registry, in the console's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// It is opened for the first time.
    Opening,
    /// Changes come in.
    Live,
    /// It was lost, and is opened again.
    Lost(String),
    /// It cannot be had.
    Refused(String),
}

/// The answer to a question about the registry; the reason when there is none.
pub(super) type Asked<T> = Result<T, String>;

/// Facts about the registry that its watch does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Control planes, by their status.
    pub(super) planes: Option<Asked<Vec<String>>>,
    /// The version of the program that answers.
    pub(super) release: Option<String>,
    /// Alarms that are active.
    pub(super) alarms: Option<Asked<Vec<String>>>,
    /// Held instances.
    pub(super) held: Option<Asked<usize>>,
}

/// The registry that is asked.
#[derive(Debug)]
pub(super) struct Server {
    /// Its address.
    pub(super) address: String,
    /// The state of the watch.
    pub(super) connection: Connection,
    /// The last time at which something came in.
    pub(super) heard: Option<Moment>,
    /// Everything else.
    pub(super) facts: Facts,
}

/// The whole state.
#[derive(Debug)]
pub(super) struct Model {
    /// The processes, in the order in which they were found.
    pub(super) processes: Vec<Process>,
    /// The services.
    pub(super) registry: Registry,
    /// The registry that is asked.
    pub(super) server: Server,
    /// The time of the picture.
    pub(super) now: Moment,
    /// Pause between two questions.
    pub(super) every: Duration,
    /// The table that the keys work on.
    pub(super) focus: Panel,
    choices: [Choice; 3],
    mode: Mode,
}

impl Model {
    /// Nothing is known yet.
    pub(super) fn new(address: String, every: Duration, now: Moment) -> Self {
        let by = |sort| Choice { sort, ..Choice::default() };
        let facts = Facts::default();
        Self {
            processes: Vec::new(),
            registry: Registry::default(),
            server: Server { address, connection: Connection::Opening, heard: None, facts },
            now,
            every,
            focus: Panel::Processes,
            choices: [by(0), by(registry::MOST_CHANGED), by(MOST_BEHIND)],
            mode: Mode::Tables,
        }
    }

    /// A process was found at an address.
    pub(super) fn found(&mut self, name: String) {
        self.processes.push(Process {
            name,
            answer: Answer::Awaited,
            figures: Figures::default(),
            rates: History::default(),
            lags: History::default(),
            last: None,
        });
    }

    /// Takes the answer of the process with this number, or the reason for which there is none.
    pub(super) fn observe(&mut self, index: usize, outcome: Asked<Scrape>) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(index) else { return };
        match outcome {
            Ok(scrape) => {
                let before = process
                    .last
                    .as_ref()
                    .map(|(then, before)| (before, now.running.saturating_sub(then.running).as_secs_f64()));
                process.figures = Figures::of(&scrape, before);
                process.last = Some((now, scrape));
                process.answer = Answer::Given;
                process.rates.push(process.figures.main_rate());
                process.lags.push(process.figures.push_p99_ms);
            }
            Err(problem) => {
                let since = match &process.answer {
                    Answer::Missing { since, .. } => *since,
                    _ => now,
                };
                process.answer = Answer::Missing { since, problem };
                process.rates.push(None);
                process.lags.push(None);
            }
        }
    }

    /// The processes in the order of their table.
    pub(super) fn processes(&self) -> Vec<&Process> {
        sheet::arrange(self.processes.iter(), &PROCESSES, self.choice(Panel::Processes), self.now)
    }

    /// The services in the order of their table.
    pub(super) fn services(&self) -> Vec<&registry::Service> {
        let choice = self.choice(Panel::Services);
        sheet::arrange(self.registry.services(), &registry::COLUMNS, choice, self.now)
    }

    /// The gateways in the order of their table. One that does not answer keeps its place in it.
    pub(super) fn gateways(&self) -> Vec<&Process> {
        let gateways = self.processes.iter().filter(|process| process.figures.watchers.is_some());
        sheet::arrange(gateways, &GATEWAYS, self.choice(Panel::Watchers), self.now)
    }

    /// The order, the filter and the selection of a table.
    pub(super) fn choice(&self, panel: Panel) -> &Choice {
        &self.choices[panel as usize]
    }

    /// The state that decides the meaning of keys.
    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    fn rows(&self) -> usize {
        match self.focus {
            Panel::Processes => self.processes().len(),
            Panel::Services => self.services().len(),
            Panel::Watchers => self.gateways().len(),
        }
    }

    /// Does as a key says.
    pub(super) fn act(&mut self, action: &Action) {
        let panels = Panel::ALL.len();
        let columns = self.focus.columns();
        let last = self.rows().saturating_sub(1);
        let at = self.focus as usize;
        let choice = &mut self.choices[at];
        match action {
            Action::Quit => {}
            Action::Help if self.mode == Mode::Help => self.mode = Mode::Tables,
            Action::Help => self.mode = Mode::Help,
            Action::NextPanel => self.focus = Panel::ALL[(at + 1) % panels],
            Action::PreviousPanel => self.focus = Panel::ALL[(at + panels - 1) % panels],
            Action::Panel(number) => self.focus = Panel::ALL[(*number).min(panels - 1)],
            Action::NextSort => choice.sort = (choice.sort + 1) % columns,
            Action::PreviousSort => choice.sort = (choice.sort + columns - 1) % columns,
            Action::Reverse => choice.is_reversed = !choice.is_reversed,
            Action::Filter => self.mode = Mode::Filter,
            Action::Type(character) => {
                if choice.filter.chars().count() < MAX_FILTER {
                    choice.filter.push(*character);
                }
                choice.selected = 0;
            }
            Action::Erase => {
                choice.filter.pop();
            }
            Action::Accept => self.mode = Mode::Tables,
            Action::Clear => {
                if self.mode != Mode::Help {
                    choice.filter.clear();
                }
                self.mode = Mode::Tables;
            }
            Action::Move(by) => {
                choice.selected = choice.selected.min(last).saturating_add_signed(*by).min(last)
            }
            Action::First => choice.selected = 0,
            Action::Last => choice.selected = last,
        }
    }
}

/// Characters of a filter.
const MAX_FILTER: usize = 60;

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A gateway's metrics after so many pushes.
    pub(crate) fn gateway(watchers: u32, pushes: u32) -> Scrape {
        Scrape::parse(&format!(
            "muster_edge_sessions {watchers}\nmuster_edge_forwarded_total 3\nmuster_edge_revision 1200\n\
             service_center_notify_publish_total{{status=\"SUCCESS\"}} {pushes}\n\
             muster_edge_event_lag_seconds_bucket{{le=\"0.005\"}} {pushes}\n\
             muster_edge_event_lag_seconds_bucket{{le=\"+Inf\"}} {pushes}\n\
             muster_edge_event_lag_seconds_count {pushes}\nmuster_edge_bus_lag_seconds_count {pushes}\n\
             muster_edge_bus_lag_seconds_bucket{{le=\"0.001\"}} {pushes}\n\
             muster_edge_bus_lag_seconds_bucket{{le=\"+Inf\"}} {pushes}\n\
             muster_build_info{{version=\"0.1.0\"}} 1\nmuster_edge_slow_watchers_total 0\n\
             muster_edge_dns_answers_total {pushes}\n\
             muster_edge_staleness_seconds 0.4\nprocess_resident_memory_bytes 90000000\n"
        ))
    }

    pub(crate) fn at(seconds: u64) -> Moment {
        Moment { running: Duration::from_secs(seconds), unix: 1_800_000_000 + seconds }
    }

    /// A model of so many gateways, each observed at 0 and at 2 seconds.
    pub(crate) fn fleet(gateways: u32) -> Model {
        let mut model = Model::new("http://127.0.0.1:30100".to_owned(), Duration::from_secs(2), at(0));
        for number in 0..gateways {
            model.found(format!("10.0.0.{number}:30101"));
            model.observe(number as usize, Ok(gateway(10 * number, 100)));
        }
        model.now = at(2);
        for number in 0..gateways {
            model.observe(number as usize, Ok(gateway(10 * number, 100 + 20 * number)));
        }
        model
    }

    #[test]
    fn the_line_of_a_process_has_the_latency_of_its_stages() {
        let mut model = fleet(1);
        model.now = at(4);
        model.observe(0, Ok(gateway(10, 150)));
        let line = model.processes[0].detail(model.now);
        assert!(line.contains("bus p99 ms 1.00") && line.contains("total p99 ms 5.00"), "{line}");
        assert!(line.contains("dns answers/s 25.0") && !line.contains("xds"), "{line}");
        assert!(line.contains("divergences 0") && !line.contains("publish"), "{line}");
    }

    fn names(processes: &[&Process]) -> Vec<String> {
        processes.iter().map(|process| process.name.clone()).collect()
    }

    #[test]
    fn a_process_that_does_not_answer_stays_first_with_its_time() {
        let mut model = fleet(3);
        model.observe(1, Err("connection refused".to_owned()));
        model.now = at(70);
        model.observe(1, Err("connection refused".to_owned()));
        assert_eq!(names(&model.processes())[0], "10.0.0.1:30101");
        assert_eq!(
            model.processes[1].problem(model.now).expect("has one"),
            "no answer since 08:00:02 UTC (1m 8s): connection refused"
        );
        assert_eq!(model.gateways().len(), 3, "it keeps its place among the gateways");
        model.observe(1, Ok(gateway(10, 120)));
        assert_eq!(model.processes[1].problem(model.now), None);
        model.observe(99, Ok(gateway(1, 1)));
        assert_eq!(model.processes.len(), 3, "an answer of nobody changes nothing");
    }

    #[test]
    fn keys_sort_turn_round_and_filter_the_table_in_focus() {
        let mut model = fleet(12);
        for _ in 0..2 {
            model.act(&Action::NextSort);
        }
        assert_eq!(names(&model.processes())[0], "10.0.0.11:30101", "the most watchers come first");
        model.act(&Action::Reverse);
        assert_eq!(names(&model.processes())[0], "10.0.0.0:30101");
        model.act(&Action::Filter);
        for character in "0.1:".chars() {
            model.act(&Action::Type(character));
        }
        assert_eq!(names(&model.processes()), ["10.0.0.1:30101"]);
        assert_eq!(model.gateways().len(), 12, "the other tables have filters of their own");
        model.act(&Action::Clear);
        assert_eq!((model.processes().len(), model.mode()), (12, Mode::Tables));
    }

    proptest! {
        #[test]
        fn no_sequence_of_keys_leaves_the_tables(
            keys in proptest::collection::vec(0usize..15, 0..60), gateways in 0u32..4,
        ) {
            let mut model = fleet(gateways);
            let actions = [
                Action::Help, Action::NextPanel, Action::PreviousPanel, Action::Panel(9), Action::NextSort,
                Action::PreviousSort, Action::Reverse, Action::Filter, Action::Type('1'), Action::Erase,
                Action::Accept, Action::Clear, Action::Move(-20), Action::Move(3), Action::Last,
            ];
            for key in keys {
                model.act(&actions[key]);
                for panel in Panel::ALL {
                    prop_assert!(model.choice(panel).sort < panel.columns());
                }
                let rows = model.rows();
                prop_assert!(model.choice(model.focus).selected_of(rows).is_none_or(|row| row < rows));
            }
        }
    }
}
