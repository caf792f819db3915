//! `muster diff`: do control planes and gateways know the same of the registry?
//!
//! Asks the admin ports what each plane knows (`/known`), in an order that makes changes meanwhile harmless (see
//! [`mod@compare`]). A process that does not come to the revision of the others within `--settle` is behind, which is a
//! difference as well.

use std::time::Duration;

use clap::Args;
use futures_util::future::try_join_all;
use host::inventory::{self, Known, Plane};
use serde::Serialize;
use shared::model::Revision;
use tokio::time::{Instant, sleep};

mod compare;

use compare::{Difference, compare};

use super::processes::{self, Process};
use crate::cli::{Trust, duration};
use crate::failure::{Failure, Refusal};
use crate::screen::{Format, Screen};

/// Between two looks at a process that is behind.
const PACE: Duration = Duration::from_millis(250);
/// Rows shown to people at most; programs get all.
const ROWS: usize = 100;

/// Arguments of `muster diff`.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// Admin addresses of control planes and gateways; of a name with several addresses all are compared.
    #[arg(long, env = "MUSTER_ADMIN", value_name = "URL", value_delimiter = ',', required = true)]
    admin: Vec<url::Url>,
    /// The processes' admin token; not needed on their own machine.
    #[arg(long, env = "MUSTER_ADMIN_TOKEN", value_name = "SECRET", hide_env_values = true)]
    token: Option<String>,
    /// How long a process may take to come to the revision of the others.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    settle: Duration,
    /// How to write the result.
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// How long to wait for an answer.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    trust: Trust,
}

/// A plane of a process, and what it knows. `muster standalone` has two.
struct Told<'a> {
    process: &'a Process,
    /// Its place in what the process answers.
    index: usize,
    known: Known,
}

/// What was compared.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Compared {
    process: String,
    plane: Plane,
    /// The revision it had come to.
    revision: Revision,
    /// The revision that it had to come to.
    expected: Revision,
    services: usize,
    instances: usize,
}

impl Compared {
    fn of(told: &Told<'_>, expected: Revision) -> Self {
        let Known { plane, revision, services } = &told.known;
        Self {
            process: told.process.name.clone(),
            plane: *plane,
            revision: *revision,
            expected,
            services: services.len(),
            instances: services.iter().map(|it| it.instances.len()).sum(),
        }
    }

    fn is_behind(&self) -> bool {
        self.revision < self.expected
    }
}

/// The result.
#[derive(Debug, Serialize)]
struct Report {
    agree: bool,
    processes: Vec<Compared>,
    differences: Vec<Difference>,
}

impl Diff {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        let processes = processes::of(&self.admin, self.timeout, &self.trust).await?;
        let report = self.compare(&processes).await?;
        match self.output {
            Format::Json => screen.json(&report)?,
            Format::Table => show(&report, screen)?,
        }
        if report.agree { Ok(()) } else { Err(Failure::Unwell(summary(&report))) }
    }

    async fn compare(&self, processes: &[Process]) -> Result<Report, Failure> {
        let mut told = Vec::new();
        for process in processes {
            let known = self.ask(process).await?.into_iter().enumerate();
            told.extend(known.map(|(index, known)| Told { process, index, known }));
        }
        // Control planes know everything, and who is furthest cannot be behind.
        let rank = |it: &Told<'_>| (it.known.plane == Plane::ControlPlane, it.known.revision);
        let furthest = (0..told.len()).max_by_key(|at| rank(&told[*at]));
        let Some(furthest) = furthest.filter(|_| told.len() > 1) else {
            return Err(Failure::Usage("give the admin addresses of two processes at least".to_owned()));
        };
        let reference = told.remove(furthest);
        let goal = reference.known.revision;
        let deadline = Instant::now() + self.settle;
        // At once: one that is cut off would use up the time of the others.
        try_join_all(told.iter_mut().map(|it| self.settled(it, goal, deadline))).await?;
        let reach = told.iter().map(|it| it.known.revision).max().unwrap_or(0);
        let Told { process, index, known } = &reference;
        let mut last = Told { process, index: *index, known: known.clone() };
        self.look(&mut last).await?;
        self.settled(&mut last, reach, Instant::now() + self.settle).await?;
        let mut differences = Vec::new();
        for it in &told {
            differences.extend(compare(&it.process.name, &reference.known, &it.known, &last.known));
        }
        let mut compared = vec![Compared::of(&last, reach)];
        compared.extend(told.iter().map(|it| Compared::of(it, goal)));
        let agree = differences.is_empty() && !compared.iter().any(Compared::is_behind);
        Ok(Report { agree, processes: compared, differences })
    }

    /// Looks until everything up to `goal` is known, or the deadline.
    async fn settled(&self, it: &mut Told<'_>, goal: Revision, deadline: Instant) -> Result<(), Failure> {
        while it.known.revision < goal && Instant::now() < deadline {
            sleep(PACE).await;
            self.look(it).await?;
        }
        Ok(())
    }

    async fn look(&self, it: &mut Told<'_>) -> Result<(), Failure> {
        if let Some(known) = self.ask(it.process).await?.into_iter().nth(it.index) {
            it.known = known;
        }
        Ok(())
    }

    async fn ask(&self, process: &Process) -> Result<Vec<Known>, Failure> {
        let answer = process.registry.root_as(inventory::PATH, self.token.as_deref()).await?;
        let status = answer.status().as_u16();
        let odd = |problem: String| Failure::NotUnderstood { server: process.registry.server(), problem };
        match status {
            200 => {
                let known: Vec<Known> =
                    serde_json::from_str(answer.body()).map_err(|e| odd(e.to_string()))?;
                // A process that has just started knows nothing, which is not the same as an empty registry.
                if known.is_empty() {
                    Err(Failure::Unwell(format!("{} knows nothing yet", process.name)))
                } else {
                    Ok(known)
                }
            }
            404 => Err(odd("no such route: is this its admin port, and is it of this version?".to_owned())),
            _ => {
                let detail = answer.body().lines().next().unwrap_or_default().chars().take(300).collect();
                let message = format!("{}: HTTP status {status}", process.name);
                Err(Failure::Refused(Refusal { status, message, detail, ..Refusal::default() }))
            }
        }
    }
}

fn show(report: &Report, screen: &mut Screen) -> Result<(), Failure> {
    let rows: Vec<_> = report
        .processes
        .iter()
        .map(|it| {
            let plane = match it.plane {
                Plane::ControlPlane => "control",
                Plane::EdgeGateway => "edge",
            };
            let state = match it.expected.saturating_sub(it.revision) {
                0 => "current".to_owned(),
                behind => format!("{behind} revisions behind"),
            };
            let [revision, services, instances] =
                [it.revision, it.services as u64, it.instances as u64].map(|it| it.to_string());
            vec![it.process.clone(), plane.to_owned(), revision, services, instances, state]
        })
        .collect();
    screen.table(&["PROCESS", "PLANE", "REVISION", "SERVICES", "INSTANCES", "STATE"], &rows)?;
    if report.differences.is_empty() {
        return Ok(());
    }
    screen.line("")?;
    let revision = |it: Option<Revision>| it.map_or_else(|| "absent".to_owned(), |it| it.to_string());
    let rows: Vec<_> = report
        .differences
        .iter()
        .take(ROWS)
        .map(|it| {
            let instance = it.instance.clone().unwrap_or_else(|| "(its record)".to_owned());
            let service = if it.tenant == "default/default" {
                it.service.clone()
            } else {
                format!("{}: {}", it.tenant, it.service)
            };
            vec![it.process.clone(), service, instance, revision(it.has), revision(it.expected)]
        })
        .collect();
    screen.table(&["PROCESS", "SERVICE", "INSTANCE", "HAS REVISION", "SHOULD HAVE"], &rows)?;
    if report.differences.len() > ROWS {
        screen.note(&format!("{} more are left out; --output json has all", report.differences.len() - ROWS));
    }
    Ok(())
}

fn summary(report: &Report) -> String {
    let behind: Vec<_> =
        report.processes.iter().filter(|it| it.is_behind()).map(|it| it.process.as_str()).collect();
    let differences = match report.differences.len() {
        0 => String::new(),
        1 => "1 difference".to_owned(),
        n => format!("{n} differences"),
    };
    let behind = if behind.is_empty() {
        String::new()
    } else {
        format!(
            "{} did not come to the revision of the others: cut off? see muster doctor --admin",
            behind.join(", ")
        )
    };
    let parts: Vec<_> = [differences, behind].into_iter().filter(|it| !it.is_empty()).collect();
    format!("they do not agree: {}", parts.join("; "))
}
