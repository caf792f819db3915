//! Every way in which a command can fail, with its exit status. Scripts tell failures apart by the status.

use std::time::Duration;

use http::Response;

/// The command line makes no sense (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;
/// The process itself cannot run (`EX_SOFTWARE`).
pub(crate) const SOFTWARE: u8 = 70;

/// The reason for which a command did not do its work. Its text is the line that people read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandFailure {
    /// The arguments make no sense together, or name something that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The registry understood the request and refused it.
    #[error("the registry refused: {0}")]
    Refused(RegistryRefusal),
    /// The registry wants a token, or another one.
    #[error("the registry refused: {0}; log in: muster login")]
    LogIn(RegistryRefusal),
    /// A check ran and found a fault.
    #[error("{0}")]
    Unwell(String),
    /// No reply came.
    #[error("cannot reach {server}: {problem}")]
    Unreachable {
        /// Address of the server.
        server: String,
        /// The error of the network.
        problem: String,
    },
    /// The registry cannot serve the request at present.
    #[error("the registry cannot serve this now, try again{}: {refusal}", after(*.wait))]
    TryAgain {
        /// The reply.
        refusal: RegistryRefusal,
        /// Time that the registry asks to wait.
        wait: Option<Duration>,
    },
    /// The reply is not one of a registry, or of none that this version knows.
    #[error("{server} does not answer like a registry: {problem}")]
    NotUnderstood {
        /// Address of the server.
        server: String,
        /// The oddity of its reply.
        problem: String,
    },
    /// The result cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
}

/// The content of an error reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegistryRefusal {
    /// HTTP status.
    pub(crate) status: u16,
    /// Six digits; empty when the reply did not come from a registry.
    pub(crate) code: String,
    /// Meaning of the code.
    pub(crate) message: String,
    /// Details of this case.
    pub(crate) detail: String,
}

impl RegistryRefusal {
    /// The refusal of a route whose replies are plain text, such as those of the admin port.
    pub(crate) fn from_text(reply: &Response<String>) -> Self {
        let status = reply.status().as_u16();
        // A proxy in between may answer with a page of HTML; one line of that is enough.
        let first_line = reply.body().lines().next().unwrap_or_default();
        Self {
            status,
            message: format!("HTTP status {status}"),
            detail: first_line.chars().take(300).collect(),
            ..Self::default()
        }
    }
}

impl std::fmt::Display for RegistryRefusal {
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

impl CommandFailure {
    /// The exit status. Beyond 1 they are those of `sysexits.h`, which other tools use as well.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Unwell(_) => 1,
            Self::Usage(_) => USAGE,
            Self::Unreachable { .. } => 69,
            Self::Output(_) => 74,
            Self::TryAgain { .. } => 75,
            Self::NotUnderstood { .. } => 76,
            Self::LogIn(_) => 77,
        }
    }

    /// The failure without the details of its case, so that equal ones can be counted.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Refused(refusal) | Self::LogIn(refusal) | Self::TryAgain { refusal, .. } => {
                let RegistryRefusal { status, code, .. } = refusal;
                if code.is_empty() {
                    format!("status {status}")
                } else {
                    format!("status {status}, code {code}")
                }
            }
            Self::Unreachable { problem, .. } => problem.clone(),
            Self::NotUnderstood { problem, .. } => format!("not understood: {problem}"),
            Self::Usage(text) | Self::Unwell(text) => text.clone(),
            Self::Output(e) => e.to_string(),
        }
    }

    /// The same request may succeed later.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TryAgain { .. })
    }

    /// The registry does not have the instance.
    pub(crate) fn is_unknown_instance(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == "400017")
    }

    /// The server has no such path: it is another kind of process, or the path is switched off.
    pub(crate) fn is_unknown_path(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == 404 && refusal.code.is_empty())
    }

    /// The registry does not have the service.
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
  76  the server that answered is not a registry
  77  the registry wants a token: log in";
