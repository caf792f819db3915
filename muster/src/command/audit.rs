//! `muster audit`: reads the audit log of a process, with the files that it has set aside.
//!
//! In: files of JSON lines. Out: the records that the filters let through, as they were written or as lines
//! for people. It asks no registry, so it works on a copy of the files too.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use host::audit::{FILE_NAME, Follower, Record, files_of};
use shared::clock::Clock;

use super::interrupted;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen, harmless};

/// The pause between two looks for new records.
const PAUSE: Duration = Duration::from_millis(300);
/// The longest line that is read, in bytes. A record is far shorter.
const LONGEST_LINE: usize = 64 << 10;

/// Arguments of `muster audit`.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// The audit log (`audit.file`), or the data directory of a standalone registry.
    #[arg(default_value = "./muster-data")]
    path: PathBuf,
    /// Only records of this account.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Only records with this decision.
    #[arg(long, value_parser = ["allowed", "denied"])]
    decision: Option<String>,
    /// Only records since this time (RFC 3339), or of so long ago at most.
    #[arg(long, value_name = "TIME|DURATION", value_parser = since)]
    since: Option<SystemTime>,
    /// Only records whose method, route, operation or target contain this text, such as DELETE or
    /// /v4/accounts.
    #[arg(long, value_name = "TEXT")]
    action: Option<String>,
    /// Go on with new records as they are written.
    #[arg(long, short)]
    follow: bool,
    /// Format of the result.
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    /// The same as `--output json`: each record as it was written, one a line.
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl Audit {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let stopped = interrupted();
        tokio::pin!(stopped);
        let path = if self.path.is_dir() { self.path.join(FILE_NAME) } else { self.path.clone() };
        // Before the earlier files are read, which takes a while, so that no rotation is missed.
        let follower = self.follow.then(|| Follower::new(path.clone()));
        let files = follower.as_ref().map_or_else(|| files_of(&path), Follower::earlier);
        let files = files.map_err(|error| unreadable(&path, &error))?;
        if files.is_empty() && !self.follow {
            return Err(CommandFailure::Usage(format!(
                "there is no audit log {}: a process with access control writes one where `audit.file` says, a \
                 standalone registry also without that setting",
                path.display()
            )));
        }
        let mut strange = 0;
        for file in &files {
            let open = std::fs::File::open(file).map_err(|error| unreadable(file, &error))?;
            let mut lines = BufReader::new(open);
            while let Some(line) = next_line(&mut lines).map_err(|error| unreadable(file, &error))? {
                strange += usize::from(!self.show(&line, screen)?);
            }
        }
        if let Some(mut follower) = follower {
            loop {
                let lines = follower.lines().map_err(|error| unreadable(&path, &error))?;
                for line in &lines {
                    strange += usize::from(!self.show(line, screen)?);
                }
                if lines.is_empty() {
                    tokio::select! {
                        stopped = &mut stopped => {
                            stopped?;
                            break;
                        }
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                }
            }
        }
        if strange > 0 {
            screen
                .note(&format!("{strange} lines are no records: a process was killed, or the disk was full"));
        }
        Ok(())
    }

    /// Shows a line if the filters let it through. False for one that is no record.
    fn show(&self, line: &str, screen: &mut Screen) -> Result<bool, CommandFailure> {
        let Ok(record) = serde_json::from_str::<Record>(line) else { return Ok(line.trim().is_empty()) };
        if !self.admits(&record) {
            return Ok(true);
        }
        if self.json || self.output == OutputFormat::Json {
            screen.json_text(line)?;
        } else {
            screen.line(&harmless(&for_people(&record)))?;
        }
        Ok(true)
    }

    fn admits(&self, record: &Record) -> bool {
        let is_of_account = self.account.as_ref().is_none_or(|account| *account == record.account);
        let has_decision = self.decision.as_ref().is_none_or(|decision| *decision == record.decision.word());
        // A time that cannot be read is shown: nothing should be hidden by damage.
        let is_recent = self
            .since
            .is_none_or(|since| humantime::parse_rfc3339(&record.time).map_or(true, |time| time >= since));
        let is_action = self.action.as_ref().is_none_or(|text| {
            let Record { method, route, operation, target, .. } = record;
            format!("{method} {route} {operation} {target}").contains(text.as_str())
        });
        is_of_account && has_decision && is_recent && is_action
    }
}

/// The next line, without its end. The rest of a line that is too long is left out.
fn next_line(lines: &mut impl std::io::BufRead) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let read = std::io::Read::take(&mut *lines, LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
    if read == LONGEST_LINE && line.last() != Some(&b'\n') {
        lines.skip_until(b'\n')?;
    }
    while line.last().is_some_and(|byte| byte.is_ascii_whitespace()) {
        line.pop();
    }
    Ok((read > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
}

fn for_people(record: &Record) -> String {
    let Record { time, decision, status, account, source, method, target, operation, .. } = record;
    let account = if account.is_empty() { "-" } else { account };
    format!(
        "{time}  {:<7}  {status}  {account:<16}  {source:<15}  {method:<6}  {target}  {operation}",
        decision.word()
    )
    .trim_end()
    .to_owned()
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> CommandFailure {
    CommandFailure::Usage(format!("{} cannot be read: {error}", path.display()))
}

/// Parses a point in time, or a duration before now.
fn since(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let ago = humantime::parse_duration(text)
        .map_err(|_| "expected a duration such as 1h, or a time such as 2030-01-31T08:00:00Z".to_owned())?;
    Clock::system().now().checked_sub(ago).ok_or_else(|| "that is before all time".to_owned())
}

#[cfg(test)]
mod tests {
    use host::audit::Decision;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        audit: Audit,
    }

    fn admits(flags: &[&str], record: &Record) -> bool {
        let line = [&["audit"], flags].concat();
        <Line as clap::Parser>::try_parse_from(line).expect("is understood").audit.admits(record)
    }

    #[test]
    fn a_record_must_pass_every_filter() {
        let record = Record {
            time: "2030-01-31T08:00:00.000Z".to_owned(),
            account: "peter".to_owned(),
            decision: Decision::Denied,
            method: "DELETE".to_owned(),
            route: "/v4/roles/{roleName}".to_owned(),
            target: "/v4/roles/viewer".to_owned(),
            ..Record::default()
        };
        for (flags, expected) in [
            (&[][..], true),
            (&["--account", "peter", "--decision", "denied"], true),
            (&["--account", "pet"], false),
            (&["--account", "peter", "--decision", "allowed"], false),
            (&["--action", "DELETE /v4/roles"], true),
            (&["--action", "viewer"], true),
            (&["--action", "accounts"], false),
            (&["--since", "2030-01-31T08:00:00Z"], true),
            (&["--since", "2030-01-31 08:00:01"], false),
        ] {
            assert_eq!(admits(flags, &record), expected, "{flags:?}");
        }
        assert!(since("yesterday").is_err());
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let text = [vec![b'x'; 3 * LONGEST_LINE], b"\nnext\n".to_vec()].concat();
        let mut lines = text.as_slice();
        let first = next_line(&mut lines).expect("reads").expect("a line");
        assert_eq!(first.len(), LONGEST_LINE);
        assert_eq!(next_line(&mut lines).expect("reads").as_deref(), Some("next"));
        assert_eq!(next_line(&mut lines).expect("reads"), None);
    }
}
