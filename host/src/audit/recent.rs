//! The last records of this process, in memory. People read them in the console, and no file is read for
//! that.
//!
//! In: each record, as it is made. Out: those that a question asks for, newest first. Both the number of
//! records that are kept and their bytes are bounded; the file of the audit log has all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Decision, Record};

/// Records that are kept.
const MOST_RECORDS: usize = 1000;
/// Bytes that the kept records may take in memory.
const MOST_BYTES: usize = 1 << 20;
/// The most bytes of a value in a question.
const LONGEST_VALUE: usize = 256;

/// The last records.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The oldest first, each with its bytes.
    records: VecDeque<(Arc<Record>, usize)>,
    bytes: usize,
    /// Some made room for later ones.
    has_forgotten: bool,
}

/// A question for the last records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Only those of this account.
    pub account: Option<String>,
    /// Only those with this decision.
    pub decision: Option<Decision>,
    /// Only those of this kind ([`Record::kind`]).
    pub kind: Option<String>,
    /// At most so many of each process; all that are kept without it.
    pub limit: Option<usize>,
}

/// The last records of one process. In JSON the keys are in camel case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecentRecords {
    /// The process that made the records: its machine's name and its number there.
    pub process: String,
    /// False if the process made earlier records, too, and keeps them no longer.
    pub complete: bool,
    /// The newest first.
    pub records: Vec<Arc<Record>>,
}

/// The answer to a question, of one process or of several. In JSON the keys are in camel case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AuditAnswer {
    /// The records of each process that has answered.
    pub processes: Vec<RecentRecords>,
    /// The number of control planes that have not.
    pub silent: usize,
}

impl Question {
    /// Reads the query of a request: `account`, `decision`, `kind` and `limit`. What is empty is not asked
    /// for, and other names are ignored.
    ///
    /// # Errors
    /// The problem, in words for the client.
    pub fn read<'a>(query: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, &'static str> {
        let mut question = Self::default();
        for (name, value) in query.into_iter().filter(|(_, value)| !value.is_empty()) {
            if value.len() > LONGEST_VALUE {
                return Err("a value of the query has at most 256 bytes");
            }
            match name {
                "account" => question.account = Some(value.to_owned()),
                "kind" => question.kind = Some(value.to_owned()),
                "decision" => {
                    let all = [Decision::Allowed, Decision::Denied];
                    let decision = all.into_iter().find(|decision| decision.word() == value);
                    question.decision = Some(decision.ok_or("`decision` is `allowed` or `denied`")?);
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MOST_RECORDS).contains(limit));
                    question.limit = Some(limit.ok_or("`limit` is a number from 1 to 1000")?);
                }
                _ => {}
            }
        }
        Ok(question)
    }

    fn takes(&self, record: &Record) -> bool {
        self.account.as_ref().is_none_or(|account| *account == record.account)
            && self.decision.is_none_or(|decision| decision == record.decision)
            && self.kind.as_ref().is_none_or(|kind| kind == record.kind())
    }
}

impl Record {
    /// The kind of act: the operation's name at a control plane, the transport at a gateway, and the route at
    /// the admin port.
    pub fn kind(&self) -> &str {
        [&self.operation, &self.transport, &self.route]
            .into_iter()
            .find(|text| !text.is_empty())
            .map_or("", |text| text)
    }

    /// The bytes that it takes in memory, with its place among others.
    fn bytes(&self) -> usize {
        let texts = [
            &self.time,
            &self.plane,
            &self.account,
            &self.means,
            &self.token,
            &self.method,
            &self.route,
            &self.operation,
            &self.target,
            &self.path,
            &self.transport,
            &self.code,
            &self.source,
            &self.peer,
            &self.forwarded,
            &self.request_id,
        ];
        let digests = self.before.iter().chain(&self.after);
        size_of::<(Self, usize)>() + texts.into_iter().chain(digests).map(String::capacity).sum::<usize>()
    }
}

impl Recent {
    /// Keeps a record, for which the oldest make room.
    pub(super) fn push(&self, record: Arc<Record>) {
        let bytes = record.bytes();
        let mut kept = self.0.lock();
        kept.records.push_back((record, bytes));
        kept.bytes += bytes;
        while kept.records.len() > MOST_RECORDS || kept.bytes > MOST_BYTES {
            let Some((_, bytes)) = kept.records.pop_front() else { break };
            kept.bytes -= bytes;
            kept.has_forgotten = true;
        }
    }

    /// The records that the question asks for, and before them true when none of them has been forgotten.
    pub(super) fn ask(&self, question: &Question) -> (bool, Vec<Arc<Record>>) {
        let kept = self.0.lock();
        let asked =
            kept.records.iter().rev().map(|(record, _)| record).filter(|record| question.takes(record));
        (!kept.has_forgotten, asked.take(question.limit.unwrap_or(MOST_RECORDS)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(account: &str, decision: Decision, operation: &str) -> Arc<Record> {
        let (account, operation) = (account.to_owned(), operation.to_owned());
        Arc::new(Record { account, decision, operation, ..Record::default() })
    }

    fn accounts(recent: &Recent, query: &[(&str, &str)]) -> Vec<String> {
        let question = Question::read(query.iter().copied()).expect("a question");
        recent.ask(&question).1.iter().map(|record| record.account.clone()).collect()
    }

    #[test]
    fn the_newest_come_first_and_only_those_asked_for() {
        let recent = Recent::default();
        recent.push(record("anna", Decision::Allowed, "RegisterInstance"));
        recent.push(record("peter", Decision::Denied, "RegisterInstance"));
        recent.push(record("anna", Decision::Denied, "Login"));
        assert_eq!(accounts(&recent, &[]), ["anna", "peter", "anna"]);
        assert_eq!(accounts(&recent, &[("account", "anna"), ("decision", "denied")]), ["anna"]);
        assert_eq!(accounts(&recent, &[("kind", "RegisterInstance"), ("limit", "1")]), ["peter"]);
        assert_eq!(accounts(&recent, &[("account", ""), ("other", "x")]).len(), 3);
        assert_eq!(accounts(&recent, &[("account", "nobody")]), [""; 0]);
    }

    #[test]
    fn a_kind_is_what_the_plane_has_for_it() {
        let of = |operation: &str, transport: &str, route: &str| {
            let text = str::to_owned;
            let record = Record {
                operation: text(operation),
                transport: text(transport),
                route: text(route),
                ..Record::default()
            };
            record.kind().to_owned()
        };
        assert_eq!(
            [of("Login", "", "/v4/token"), of("", "sse", "/r"), of("", "", "/drain")],
            ["Login", "sse", "/drain"]
        );
        assert_eq!(of("", "", ""), "");
    }

    #[test]
    fn questions_that_make_no_sense_are_refused() {
        let long = "x".repeat(LONGEST_VALUE + 1);
        for (name, value) in
            [("decision", "perhaps"), ("limit", "0"), ("limit", "1001"), ("limit", "-1"), ("account", &long)]
        {
            assert!(Question::read([(name, value)]).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn both_number_and_bytes_have_a_bound() {
        let recent = Recent::default();
        for number in 0..MOST_RECORDS {
            recent.push(record(&number.to_string(), Decision::Allowed, ""));
        }
        assert!(recent.ask(&Question::default()).0, "nothing is forgotten yet");
        recent.push(record("last", Decision::Allowed, ""));
        let (is_complete, records) = recent.ask(&Question::default());
        assert_eq!((is_complete, records.len(), &*records[0].account), (false, MOST_RECORDS, "last"));
        // A plane cuts the texts of its records; these are larger than any of them.
        for _ in 0..100 {
            recent.push(record(&"x".repeat(MOST_BYTES / 20), Decision::Denied, ""));
        }
        let kept = recent.0.lock();
        assert!(kept.bytes <= MOST_BYTES && (10..20).contains(&kept.records.len()), "{}", kept.records.len());
        assert_eq!(kept.bytes, kept.records.iter().map(|(_, bytes)| bytes).sum::<usize>());
    }
}
