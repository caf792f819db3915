//! Every reason for which a session ends: one table with the metric label and what the client is told.
//!
//! Old clients come back after an *error* and stay away after an orderly close. So a session that the client
//! should open again elsewhere ends without a close frame; frames are only sent as an echo or for a
//! violation.

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// The client sent a close frame, or ended its stream.
    ClientClosed,
    /// The client's side of the connection ended without a close.
    ClientGone,
    /// Nothing came from the client for the read deadline.
    ReadTimeout,
    /// Nothing could be written for the write deadline.
    WriteTimeout,
    /// The connection broke.
    Broken,
    /// The client violated the protocol.
    Protocol,
    /// The client sent a message that is too big.
    TooBig,
    /// The client sent a text that is not UTF-8.
    NotText,
    /// The consumer's service does not exist (any more).
    NoService,
    /// The gateway is being drained.
    Drained,
    /// The connection was accepted but its socket never came.
    NeverAttached,
    /// The instance whose heartbeats the connection carries does not exist.
    NoInstance,
    /// A heartbeat could not be passed on.
    HeartbeatFailed,
    /// The store was restored from a backup: the revisions that the client was told are of another history.
    Restored,
}

impl Reason {
    /// All of them.
    pub(crate) const ALL: [Self; 14] = [
        Self::ClientClosed,
        Self::ClientGone,
        Self::ReadTimeout,
        Self::WriteTimeout,
        Self::Broken,
        Self::Protocol,
        Self::TooBig,
        Self::NotText,
        Self::NoService,
        Self::Drained,
        Self::NeverAttached,
        Self::NoInstance,
        Self::HeartbeatFailed,
        Self::Restored,
    ];

    /// The value of the label `reason`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ClientGone => "client_gone",
            Self::ReadTimeout => "read_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::Broken => "broken",
            Self::Protocol => "protocol",
            Self::TooBig => "too_big",
            Self::NotText => "not_text",
            Self::NoService => "no_service",
            Self::Drained => "drained",
            Self::NeverAttached => "never_attached",
            Self::NoInstance => "no_instance",
            Self::HeartbeatFailed => "heartbeat_failed",
            Self::Restored => "restored",
        }
    }

    /// The code of the close frame, for the reasons that send one of their own.
    pub(crate) fn close_code(self) -> Option<u16> {
        match self {
            Self::Protocol => Some(1002),
            Self::TooBig => Some(1009),
            Self::NotText => Some(1007),
            Self::NoInstance => Some(4001),
            Self::ClientClosed
            | Self::ClientGone
            | Self::ReadTimeout
            | Self::WriteTimeout
            | Self::Broken
            | Self::NoService
            | Self::Drained
            | Self::NeverAttached
            | Self::HeartbeatFailed
            | Self::Restored => None,
        }
    }

    /// The reason in the close frame, where it is always the same. The words of `NoInstance` are a contract.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::TooBig => "message too big",
            Self::NotText => "not UTF-8",
            Self::NoInstance => "heartbeat reporting failed because the instance does not exist",
            _ => "",
        }
    }

    /// The text frame that goes out before the end. Its words are a contract: clients look for them.
    pub(crate) fn text(self) -> Option<&'static str> {
        (self == Self::NoService).then_some("service does not exist")
    }
}
