//! Every reason for which a session closes: one table with the label in metrics and the client's last frames.
//!
//! Old clients reconnect after an *error* and stay away after an orderly close. A session that its client
//! should open again therefore ends without a close frame of the table below. Those are sent only as an echo,
//! for a violation, and for an instance that does not exist.
//!
//! When the gateway itself ends a session, because it wants the client elsewhere or anew, the client's kind
//! decides: see [`Farewell`].

use crate::codec::websocket::put_close;

/// The last frame of a session that its client should open again, at another gateway or anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// None: the connection just ends.
    Silence,
    /// A close frame, with the code 1001 unless the reason has one of its own. Clients that resume open the
    /// watch again after every end.
    Close,
    /// A frame that breaks the protocol. The Java clients of Service-Center watch again only when their
    /// WebSocket library reports an error, and it reports every proper end as a mere close.
    Violation,
}

/// The frame of [`Farewell::Violation`]: it is complete, empty, and of the reserved kind 3.
pub(crate) const VIOLATION: [u8; 2] = [0x83, 0x00];

/// The code of [`Farewell::Close`]: "going away".
const GOING_AWAY: u16 = 1001;

impl Farewell {
    /// Appends the frame.
    pub(crate) fn put(self, reason: Reason, out: &mut Vec<u8>) {
        match self {
            Self::Silence => {}
            Self::Close => put_close(Some(reason.farewell_code()), reason.words(), out),
            Self::Violation => out.extend_from_slice(&VIOLATION),
        }
    }
}

/// The reason for which a session closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// The client sent a close frame.
    ClientClosed,
    /// The client ended its side without a close frame.
    ClientGone,
    /// The client sent nothing until the read deadline.
    ReadTimeout,
    /// The client took nothing until the write deadline.
    WriteTimeout,
    /// The connection failed.
    Broken,
    /// The client violated the protocol.
    Protocol,
    /// The client sent a message that is too big.
    TooBig,
    /// The client sent a text that is not UTF-8.
    NotText,
    /// The consumer's service does not exist, or not any more.
    NoService,
    /// The gateway is being drained.
    Drained,
    /// The session was reserved, but its connection never came.
    NeverAttached,
    /// The instance whose heartbeats the connection carries does not exist.
    NoInstance,
    /// No control plane gave a clear answer to a heartbeat.
    HeartbeatFailed,
    /// The store was restored from a backup: the client's revisions belong to another history.
    Restored,
    /// The time of the client's token is over.
    TokenExpired,
    /// The token does not count any more: it, its key or all sessions of the account were revoked.
    TokenRevoked,
    /// The client's account was deleted.
    AccountDeleted,
    /// The client's account was disabled.
    AccountInactive,
    /// The client's account may not watch this any more.
    RightLost,
    /// The client's account may see other services now than when the watch was opened.
    RightChanged,
    /// Access control was switched on, and the client had shown no token that counts.
    TokenMissing,
}

impl Reason {
    /// All reasons, for metrics that begin at zero.
    pub(crate) const ALL: [Self; 21] = [
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
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::AccountDeleted,
        Self::AccountInactive,
        Self::RightLost,
        Self::RightChanged,
        Self::TokenMissing,
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
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::AccountDeleted => "account_deleted",
            Self::AccountInactive => "account_inactive",
            Self::RightLost => "right_lost",
            Self::RightChanged => "right_changed",
            Self::TokenMissing => "token_missing",
        }
    }

    /// The code of the close frame; `None` for reasons that send no close frame of the gateway's own.
    pub(crate) fn close_code(self) -> Option<u16> {
        // Exhaustive on purpose: a new reason must decide here if old clients are to come back.
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
            | Self::Restored
            | Self::TokenExpired
            | Self::TokenRevoked
            | Self::AccountDeleted
            | Self::AccountInactive
            | Self::RightLost
            | Self::RightChanged
            | Self::TokenMissing => None,
        }
    }

    /// The code of [`Farewell::Close`]. Those of access control tell a client what it has to do first.
    fn farewell_code(self) -> u16 {
        match self {
            Self::TokenExpired => 4101,
            Self::TokenRevoked => 4102,
            Self::AccountDeleted => 4103,
            Self::AccountInactive => 4104,
            Self::RightLost => 4105,
            Self::RightChanged => 4106,
            Self::TokenMissing => 4107,
            _ => GOING_AWAY,
        }
    }

    /// True when the gateway ends the session and its client should open it again: at once, or as soon as it
    /// has the right to. Without it old clients would not come back with a new token.
    pub(crate) fn sends_elsewhere(self) -> bool {
        matches!(self, Self::Drained | Self::Restored) || self.is_of_access()
    }

    /// True for the reasons of access control.
    pub(crate) fn is_of_access(self) -> bool {
        matches!(
            self,
            Self::TokenExpired
                | Self::TokenRevoked
                | Self::AccountDeleted
                | Self::AccountInactive
                | Self::RightLost
                | Self::RightChanged
                | Self::TokenMissing
        )
    }

    /// The text in the close frame, where it is always the same. Clients look for that of `NoInstance`.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::TooBig => "message too big",
            Self::NotText => "not UTF-8",
            Self::NoInstance => "heartbeat reporting failed because the instance does not exist",
            Self::Drained => "this gateway is draining; watch again",
            Self::Restored => "the registry was restored from a backup; watch again",
            Self::TokenExpired => "the token has expired; watch again with a new one",
            Self::TokenRevoked => "the token does not count any more; log in and watch again",
            Self::AccountDeleted => "the account of the token is deleted",
            Self::AccountInactive => "the account of the token is not active",
            Self::RightLost => "the account may not watch this any more",
            Self::RightChanged => "the rights of the account have changed; watch again from the beginning",
            Self::TokenMissing => "access control is on now; watch again with a token",
            // The words of `Protocol` come from the violation itself; all other reasons send no close frame.
            _ => "",
        }
    }

    /// The text frame that goes out before the end. Clients look for its exact words.
    pub(crate) fn text(self) -> Option<&'static str> {
        (self == Self::NoService).then_some("service does not exist")
    }
}
