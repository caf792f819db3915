//! The audit log: each decision that is to be found again, as a log event and as a line of a file.
//!
//! In: a [`Record`] from a plane. Out: an event of the target `audit` among the process's log lines, and a
//! JSON object on a line of its own in the file, if there is one. One task owns the file. A request never
//! waits for it: a record for which the queue has no room, or which cannot be written, is counted and lost.
//! The last records stay in memory, where people can read them.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};
use serde::{Deserialize, Serialize};
use settings::{Settings, Size};
use shared::clock::Clock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::file::RotatedFile;
use self::recent::Recent;
use crate::lifecycle::Tasks;
use crate::machine::own_name;

mod file;
mod reader;
mod recent;

pub use reader::{Follower, files_of};
pub use recent::{AuditAnswer, Question, RecentRecords};

/// Records that may wait for the file: a few seconds of a stalled disk under many writes.
const QUEUE: usize = 8192;
/// Records that are written in one go.
const BATCH: usize = 512;
/// The longest text that a client chooses and that is recorded, in bytes.
const LONGEST_TEXT: usize = 512;

/// The file of a standalone registry in its data directory.
pub const FILE_NAME: &str = "audit.jsonl";

/// The decision that a record is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The request was let through. It may have failed later, as its status says.
    Allowed,
    /// The request was refused.
    #[default]
    Denied,
}

impl Decision {
    /// The word of the decision in records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}

/// A request and what was decided about it. It holds names, ids, digests and the path; never a query, a body,
/// a password or a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The time of the record (RFC 3339, UTC). [`Audit::record`] sets it.
    pub time: String,
    /// `control` or `edge`: the plane that decided; `admin` for the admin port.
    pub plane: String,
    /// The decision.
    pub decision: Decision,
    /// The account of the request; empty when it had no token that counts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account: String,
    /// At the admin port, the reason for which the request was let through: `account`, `admin-token` or
    /// `this-machine`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub means: String,
    /// The id of its token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// The method of the request.
    pub method: String,
    /// The route, with placeholders; empty when no route has the path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// The operation's name, at a control plane.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// The thing that the request is about: its path, or that of the thing that a creation or a login names.
    pub target: String,
    /// The path of the request, without its query.
    pub path: String,
    /// The transport, at a gateway.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub transport: String,
    /// The status of the reply.
    pub status: u16,
    /// The error code of a gateway's refusal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The SHA-256 of the stored value before the write, where the write has read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The SHA-256 of the stored value after the write; absent when none is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The address of the client, as far as trusted proxies tell it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The other end of the connection: the client, a gateway or a proxy.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// The header `X-Forwarded-For` as it was sent. Anybody can send one, so it proves nothing by itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub forwarded: String,
    /// The id of the request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// The revision of the policy that the decision was made by; at a gateway that of its bundle.
    pub revision: u64,
}

/// The settings of the audit log.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// The file; `None` for log events only.
    pub file: Option<PathBuf>,
    /// The size at which the file is rotated.
    pub max_size: u64,
    /// The number of rotated files that are kept.
    pub keep: usize,
    /// Requests that only read are recorded too.
    pub reads: bool,
}

impl AuditConfig {
    /// Declares `audit.*`.
    pub(crate) fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            file: settings.optional(
                "audit.file",
                "File of the audit log, as JSON lines. Default: none; of a standalone registry with access control, \
                 audit.jsonl in its data directory.",
            ),
            max_size: settings
                .within::<Size>("audit.max-size", "64MiB", "4KiB"..="16GiB", "Size at which the file is rotated.")
                .0 as u64,
            keep: settings.within("audit.keep", "10", "1"..="1000", "Rotated files that are kept."),
            reads: settings.get(
                "audit.reads",
                "false",
                "Record requests that only read, and watches that are opened, too; otherwise writes and refusals.",
            ),
        }
    }
}

/// The reason for which the audit log cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("the audit log {path} cannot be opened: {source}")]
pub struct AuditError {
    path: PathBuf,
    source: std::io::Error,
}

/// The audit log of a process. Cheap to clone; the file is complete when the last clone is gone and the tasks
/// of the process have ended.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Shared>);

/// The audit log, which does not keep its file from ending. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct WeakAudit(Weak<Shared>);

impl WeakAudit {
    /// The log, unless it has ended.
    pub(crate) fn upgrade(&self) -> Option<Audit> {
        self.0.upgrade().map(Audit)
    }
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    reads: bool,
    /// `None` without a file.
    queue: Option<mpsc::Sender<Arc<Record>>>,
    recent: Recent,
    fates: Fates,
}

/// Counters of the fates of records.
#[derive(Clone, Debug)]
struct Fates(Counter<u64>);

impl Fates {
    fn new(meter: &Meter) -> Self {
        let records = meter
            .u64_counter("muster_audit_records_total")
            .with_description(
                "Records for the file of the audit log, by what became of them; none without a file.",
            )
            .build();
        let fates = Self(records);
        // A series that appears with its first loss has no increase that an alert could see.
        for fate in ["written", "dropped", "failed"] {
            fates.count(fate, 0);
        }
        fates
    }

    fn count(&self, fate: &'static str, records: usize) {
        self.0.add(records as u64, &[KeyValue::new("fate", fate)]);
    }
}

impl Audit {
    /// An audit log without a file, and with figures that nobody reads.
    pub fn without_file() -> Self {
        let fates = Fates::new(&opentelemetry::global::meter("none"));
        let recent = Recent::default();
        Self(Arc::new(Shared { clock: Clock::system(), reads: false, queue: None, recent, fates }))
    }

    /// Opens the file, if there is one, and starts the task that owns it.
    ///
    /// # Errors
    /// When the file cannot be opened. A process whose operator wants an audit log does not start without it.
    pub fn open(config: &AuditConfig, meter: &Meter, tasks: &Tasks) -> Result<Self, AuditError> {
        let fates = Fates::new(meter);
        let mut queue = None;
        if let Some(path) = &config.file {
            let file = RotatedFile::open(path.clone(), config.max_size, config.keep)
                .map_err(|source| AuditError { path: path.clone(), source })?;
            let (sender, receiver) = mpsc::channel(QUEUE);
            queue = Some(sender);
            // Not cancelled by a drain: the requests that are in flight then are recorded too. The task ends
            // with the last handle.
            tasks.spawn_named("audit", keep_writing(receiver, file, fates.clone(), tasks.abort().clone()));
        }
        let recent = Recent::default();
        Ok(Self(Arc::new(Shared { clock: Clock::system(), reads: config.reads, queue, recent, fates })))
    }

    /// The same log, held in such a way that it can end.
    pub(crate) fn downgrade(&self) -> WeakAudit {
        WeakAudit(Arc::downgrade(&self.0))
    }

    /// True if requests that only read are recorded too.
    pub fn has_reads(&self) -> bool {
        self.0.reads
    }

    /// Records a decision. Never waits.
    pub fn record(&self, mut record: Record) {
        record.time = humantime::format_rfc3339_millis(self.0.clock.now()).to_string();
        log(&record);
        let record = Arc::new(record);
        self.0.recent.push(record.clone());
        if let Some(queue) = &self.0.queue
            && queue.try_send(record).is_err()
        {
            self.0.fates.count("dropped", 1);
        }
    }

    /// The last records of this process that a question asks for. Without access control there are none but
    /// those of the admin port.
    pub fn recent(&self, question: &Question) -> RecentRecords {
        let (complete, records) = self.0.recent.ask(question);
        RecentRecords { process: own_name(), complete, records }
    }
}

/// A text of bounded length, cut between letters.
pub fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_TEXT)].to_owned()
}

fn log(record: &Record) {
    info!(
        target: "audit",
        plane = record.plane,
        decision = record.decision.word(),
        account = record.account,
        means = record.means,
        token = record.token,
        method = record.method,
        route = record.route,
        operation = record.operation,
        audited = record.target,
        path = record.path,
        transport = record.transport,
        status = record.status,
        code = record.code,
        before = record.before,
        after = record.after,
        source = record.source,
        peer = record.peer,
        forwarded = record.forwarded,
        request.id = record.request_id,
        revision = record.revision,
        "a request was decided"
    );
}

/// Writes records until the last handle is gone, or an abort.
async fn keep_writing(
    mut queue: mpsc::Receiver<Arc<Record>>,
    mut file: RotatedFile,
    fates: Fates,
    abort: CancellationToken,
) {
    let mut is_failing = false;
    loop {
        let mut batch = Vec::new();
        let received = abort.run_until_cancelled(queue.recv_many(&mut batch, BATCH)).await;
        if received.is_none() {
            // There is a second left. What has been recorded by now is written, and nothing after it.
            queue.close();
            while let Ok(record) = queue.try_recv() {
                batch.push(record);
            }
        }
        let is_last = received.unwrap_or(0) == 0;
        let count = batch.len();
        // A disk may stall, and the threads of the runtime serve requests.
        let writing = tokio::task::spawn_blocking(move || {
            let outcome = write(&mut file, &batch);
            if is_last {
                file.finish();
            }
            (file, outcome)
        });
        let Ok((back, (written, failure))) = writing.await else {
            fates.count("failed", count);
            return;
        };
        file = back;
        fates.count("written", written);
        fates.count("failed", count - written);
        match failure {
            Some(error) if !is_failing => {
                is_failing = true;
                warn!(file = %file.path().display(), %error, "audit records cannot be written; they are lost until this works again");
            }
            None if is_failing && written > 0 => {
                is_failing = false;
                info!(file = %file.path().display(), "audit records are written again");
            }
            Some(_) | None => {}
        }
        if is_last {
            return;
        }
    }
}

/// Writes each record as a line. Returns the number of those that were written, and the last failure.
fn write(file: &mut RotatedFile, batch: &[Arc<Record>]) -> (usize, Option<std::io::Error>) {
    let mut written = 0;
    let mut failure = None;
    for record in batch {
        let appended = serde_json::to_vec(&**record).map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            file.append(&line)
        });
        match appended {
            Ok(()) => written += 1,
            Err(error) => failure = Some(error),
        }
    }
    (written, failure)
}

#[cfg(test)]
mod tests;
