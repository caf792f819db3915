//! `muster diff`: finds differences between the contents of control planes and gateways.
//!
//! It requests the inventory of each process from its admin port (`/known`), in an order that makes changes
//! meanwhile harmless (see [`mod@compare`]). A process that does not reach the revision of the others within
//! `--settle` is behind, which counts as a difference as well.

use std::time::Duration;

use clap::Args;
use futures_util::future::try_join_all;
use host::inventory::{self, Inventory, Plane};
use http::Method;
use serde::Serialize;
use shared::model::Revision;
use tokio::time::{Instant, sleep};

mod compare;

use compare::{Difference, compare};

use crate::failure::{CommandFailure, RegistryRefusal};
use crate::processes::{self, AdminProcess};
use crate::screen::{OutputFormat, Screen};
use crate::target::{OperatorAccess, Trust, duration};

/// Pause between two requests to a process that is behind.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Differences in the table at most. Programs receive all of them.
const MAX_ROWS: usize = 100;

/// Arguments of `muster diff`.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// Admin addresses of control planes and gateways. All processes behind a name with several network
    /// addresses are compared.
    #[arg(long, env = "MUSTER_ADMIN", value_name = "URL", value_delimiter = ',', required = true)]
    admin: Vec<url::Url>,
    /// Time in which a process must reach the revision of the others.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    settle: Duration,
    /// Format of the result.
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    /// Time to wait for a reply.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    access: OperatorAccess,
    #[command(flatten)]
    trust: Trust,
}

/// One plane of a process, with its inventory. `muster standalone` has two planes.
struct ObservedPlane<'a> {
    process: &'a AdminProcess,
    /// Index of the plane in the process's reply.
    index: usize,
    known: Inventory,
}

/// A plane that was compared.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ComparedPlane {
    process: String,
    plane: Plane,
    /// The revision that the plane has reached.
    revision: Revision,
    /// The revision that it had to reach.
    expected: Revision,
    services: usize,
    instances: usize,
}

impl ComparedPlane {
    fn new(observed: &ObservedPlane<'_>, expected: Revision) -> Self {
        let Inventory { plane, revision, services } = &observed.known;
        Self {
            process: observed.process.name.clone(),
            plane: *plane,
            revision: *revision,
            expected,
            services: services.len(),
            instances: services.iter().map(|service| service.instances.len()).sum(),
        }
    }

    fn is_behind(&self) -> bool {
        self.revision < self.expected
    }
}

/// The result of a comparison.
#[derive(Debug, Serialize)]
struct DiffReport {
    agree: bool,
    processes: Vec<ComparedPlane>,
    differences: Vec<Difference>,
}

impl Diff {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let processes = processes::resolve(&self.admin, self.timeout, &self.trust).await?;
        let report = self.compare(&processes).await?;
        match self.output {
            OutputFormat::Json => screen.json(&report)?,
            OutputFormat::Table => show(&report, screen)?,
        }
        if report.agree { Ok(()) } else { Err(CommandFailure::Unwell(summary(&report))) }
    }

    async fn compare(&self, processes: &[AdminProcess]) -> Result<DiffReport, CommandFailure> {
        let mut planes = Vec::new();
        for process in processes {
            for (index, known) in self.request(process).await?.into_iter().enumerate() {
                planes.push(ObservedPlane { process, index, known });
            }
        }
        if planes.len() < 2 {
            let problem = "nothing to compare: give the admin addresses of two processes at least".to_owned();
            return Err(CommandFailure::Usage(problem));
        }
        let first = take_reference(&mut planes);
        let goal = first.known.revision;
        let deadline = Instant::now() + self.settle;
        // All at once: otherwise a process that is cut off would use up the time of the others.
        try_join_all(planes.iter_mut().map(|plane| self.refresh_until(plane, goal, deadline))).await?;
        let reached = planes.iter().map(|plane| plane.known.revision).max().unwrap_or(Revision::ZERO);
        // The second reading of the reference shows which of the differences are only changes made meanwhile.
        let mut last =
            ObservedPlane { process: first.process, index: first.index, known: first.known.clone() };
        self.refresh(&mut last).await?;
        self.refresh_until(&mut last, reached, Instant::now() + self.settle).await?;

        let mut differences = Vec::new();
        let mut compared = vec![ComparedPlane::new(&last, reached)];
        for plane in &planes {
            differences.extend(compare(&plane.process.name, &first.known, &plane.known, &last.known));
            compared.push(ComparedPlane::new(plane, goal));
        }
        let agree = differences.is_empty() && !compared.iter().any(ComparedPlane::is_behind);
        Ok(DiffReport { agree, processes: compared, differences })
    }

    /// Requests the inventory again until it contains everything up to `goal`, or the deadline has passed.
    async fn refresh_until(
        &self,
        plane: &mut ObservedPlane<'_>,
        goal: Revision,
        deadline: Instant,
    ) -> Result<(), CommandFailure> {
        while plane.known.revision < goal && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
            self.refresh(plane).await?;
        }
        Ok(())
    }

    async fn refresh(&self, plane: &mut ObservedPlane<'_>) -> Result<(), CommandFailure> {
        if let Some(known) = self.request(plane.process).await?.into_iter().nth(plane.index) {
            plane.known = known;
        }
        Ok(())
    }

    /// The inventories of a process, one for each of its planes.
    async fn request(&self, process: &AdminProcess) -> Result<Vec<Inventory>, CommandFailure> {
        let token = self.access.token()?;
        let reply = process.client.request_root(Method::GET, inventory::PATH, token.as_deref()).await?;
        let server = process.client.server();
        match reply.status().as_u16() {
            200 => {
                let known: Vec<Inventory> = serde_json::from_str(reply.body())
                    .map_err(|e| CommandFailure::NotUnderstood { server, problem: e.to_string() })?;
                // A process that has just started has no inventory, which is not the same as an empty one.
                if known.is_empty() {
                    let problem =
                        format!("{} has no inventory yet; try again when it is ready", process.name);
                    return Err(CommandFailure::Unwell(problem));
                }
                Ok(known)
            }
            404 => Err(CommandFailure::NotUnderstood {
                server,
                problem: "no such route: is this its admin port, and is it of this version?".to_owned(),
            }),
            _ => {
                let mut refusal = RegistryRefusal::from_text(&reply);
                // Several processes are asked, so the line must say which of them refused.
                refusal.message = format!("{}: {}", process.name, refusal.message);
                Err(CommandFailure::Refused(refusal))
            }
        }
    }
}

/// Removes the plane that the others are compared with: the control plane of the highest revision. A control
/// plane has every service, and the one that has come furthest cannot be behind.
fn take_reference<'a>(planes: &mut Vec<ObservedPlane<'a>>) -> ObservedPlane<'a> {
    let mut furthest = 0;
    for (at, plane) in planes.iter().enumerate() {
        if rank(&plane.known) >= rank(&planes[furthest].known) {
            furthest = at;
        }
    }
    planes.remove(furthest)
}

fn rank(known: &Inventory) -> (bool, Revision) {
    (known.plane == Plane::ControlPlane, known.revision)
}

fn show(report: &DiffReport, screen: &mut Screen) -> Result<(), CommandFailure> {
    let rows: Vec<_> = report.processes.iter().map(process_row).collect();
    screen.table(&["PROCESS", "PLANE", "REVISION", "SERVICES", "INSTANCES", "STATE"], &rows)?;
    if report.differences.is_empty() {
        return Ok(());
    }
    screen.line("")?;
    let rows: Vec<_> = report.differences.iter().take(MAX_ROWS).map(difference_row).collect();
    screen.table(&["PROCESS", "SERVICE", "INSTANCE", "HAS REVISION", "SHOULD HAVE"], &rows)?;
    if report.differences.len() > MAX_ROWS {
        let omitted = report.differences.len() - MAX_ROWS;
        screen.note(&format!("{omitted} more differences are not shown; --output json has all of them"));
    }
    Ok(())
}

fn process_row(compared: &ComparedPlane) -> Vec<String> {
    let plane = match compared.plane {
        Plane::ControlPlane => "control",
        Plane::EdgeGateway => "edge",
    };
    let state = match compared.expected.get().saturating_sub(compared.revision.get()) {
        0 => "current".to_owned(),
        behind => format!("{behind} revisions behind"),
    };
    vec![
        compared.process.clone(),
        plane.to_owned(),
        compared.revision.to_string(),
        compared.services.to_string(),
        compared.instances.to_string(),
        state,
    ]
}

fn difference_row(difference: &Difference) -> Vec<String> {
    // Most registries have one tenant, and its name in every row would only push the columns apart.
    let service = match difference.tenant.as_str() {
        "default/default" => difference.service.clone(),
        tenant => format!("{tenant}: {}", difference.service),
    };
    vec![
        difference.process.clone(),
        service,
        difference.instance.clone().unwrap_or_else(|| "(its record)".to_owned()),
        revision_or_absent(difference.has),
        revision_or_absent(difference.expected),
    ]
}

fn revision_or_absent(revision: Option<Revision>) -> String {
    revision.map_or_else(|| "absent".to_owned(), |revision| revision.to_string())
}

fn summary(report: &DiffReport) -> String {
    let mut parts = Vec::new();
    match report.differences.len() {
        0 => {}
        1 => parts.push("1 difference".to_owned()),
        n => parts.push(format!("{n} differences")),
    }
    let behind: Vec<_> = report
        .processes
        .iter()
        .filter(|compared| compared.is_behind())
        .map(|compared| compared.process.as_str())
        .collect();
    if !behind.is_empty() {
        parts.push(format!(
            "{} did not reach the revision of the others: cut off? see muster doctor --admin",
            behind.join(", ")
        ));
    }
    format!("they do not agree: {}", parts.join("; "))
}
