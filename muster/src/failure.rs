//! Every way a command can fail, with its exit status: scripts tell failures apart by these.

use std::time::Duration;

/// What was asked for makes no sense (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;
/// The process itself cannot run (`EX_SOFTWARE`).
pub(crate) const SOFTWARE: u8 = 70;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The registry understood and said no.
    #[error("the registry refused: {0}")]
    Refused(Refusal),
    /// Something was looked at and is not as it should be.
    #[error("{0}")]
    Unwell(String),
    /// There was no answer.
    #[error("cannot reach {server}: {problem}")]
    Unreachable {
        /// Whom we asked.
        server: String,
        /// What the network said.
        problem: String,
    },
    /// The registry says that another time would do.
    #[error("the registry cannot serve this now, try again{}: {refusal}", after(*.wait))]
    TryAgain {
        /// What it said.
        refusal: Refusal,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// Whoever answered is not a registry, or not one we know.
    #[error("{server} does not answer like a registry: {problem}")]
    NotUnderstood {
        /// Whom we asked.
        server: String,
        /// What is odd.
        problem: String,
    },
    /// The result cannot be shown.
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
}

/// What a registry says when it says no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) status: u16,
    /// Six digits; empty when the answer was no registry's.
    pub(crate) code: String,
    /// What the code means.
    pub(crate) message: String,
    /// More about this case.
    pub(crate) detail: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.message.as_str(), self.detail.as_str()) {
            ("", "") => write!(f, "HTTP status {}", self.status)?,
            ("", text) | (text, "") => f.write_str(text)?,
            (message, detail) => write!(f, "{message}: {detail}")?,
        }
        if self.code.is_empty() { Ok(()) } else { write!(f, " ({})", self.code) }
    }
}

fn after(wait: Option<Duration>) -> String {
    wait.map_or_else(String::new, |wait| format!(" in {}", humantime::format_duration(wait)))
}

impl Failure {
    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Unwell(_) => 1,
            Self::Usage(_) => USAGE,
            Self::Unreachable { .. } => 69,
            Self::Output(_) => 74,
            Self::TryAgain { .. } => 75,
            Self::NotUnderstood { .. } => 76,
        }
    }

    /// The same request may succeed later.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TryAgain { .. })
    }

    /// The registry says that the instance is not there.
    pub(crate) fn is_unknown_instance(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == "400017")
    }

    /// The registry says that the service is not there.
    pub(crate) fn is_unknown_service(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == "400012")
    }
}

/// The statuses, for `--help`.
pub(crate) const STATUSES: &str = "\
Exit status:
  0   done
  1   the registry refused, or a check failed
  64  the command line makes no sense
  69  the registry cannot be reached
  74  the result cannot be written
  75  the registry cannot serve this now; try again
  76  whoever answered is not a registry";
