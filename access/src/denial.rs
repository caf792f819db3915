//! Refusals as clients receive them: the contract's codes, HTTP statuses and texts.

use std::borrow::Cow;
use std::fmt;

use serde_json::json;

/// A refusal: the code, and the sentence about this case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The reason.
    pub code: DenialCode,
    /// A public sentence for people; empty when the code says everything.
    pub detail: Cow<'static, str>,
}

/// The reason of a refusal. Numbers and messages are Service-Center's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialCode {
    /// The token is none of ours, or it does not count any more.
    Unauthorized,
    /// The request has no header `Authorization`.
    NoHeader,
    /// The token's time is over.
    Expired,
    /// The account of the token does not exist any more.
    AccountDeleted,
    /// The account's roles do not permit this.
    NoPermission,
    /// Nobody can decide at the moment.
    Undecided,
}

impl DenialCode {
    /// Every code, for tests and documents.
    pub const ALL: [Self; 6] = [
        Self::Unauthorized,
        Self::NoHeader,
        Self::Expired,
        Self::AccountDeleted,
        Self::NoPermission,
        Self::Undecided,
    ];

    /// Six digits, sent as text.
    pub fn number(self) -> &'static str {
        match self {
            Self::Unauthorized => "401201",
            Self::NoHeader => "401204",
            Self::Expired => "401205",
            Self::AccountDeleted => "401206",
            Self::NoPermission => "403205",
            Self::Undecided => "500011",
        }
    }

    /// The HTTP status that is sent with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::Unauthorized | Self::NoHeader | Self::Expired | Self::AccountDeleted => 401,
            Self::NoPermission => 403,
            Self::Undecided => 503,
        }
    }

    /// The constant text that is sent with the code.
    pub fn message(self) -> &'static str {
        match self {
            Self::Unauthorized => "Request unauthorized",
            Self::NoHeader => "No authorization header",
            Self::Expired => "Token is expired",
            Self::AccountDeleted => "The account that owns the token is deleted",
            Self::NoPermission => "No permission(s)",
            Self::Undecided => "Registry service is unavailable",
        }
    }
}

impl Denial {
    /// A refusal with a sentence about the case.
    pub fn new(code: DenialCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// The JSON body. An empty detail is absent.
    pub fn body(&self) -> String {
        let mut body = json!({ "errorCode": self.code.number(), "errorMessage": self.code.message() });
        if !self.detail.is_empty() {
            body["detail"] = self.detail.as_ref().into();
        }
        body.to_string()
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail.as_ref() {
            "" => f.write_str(self.code.message()),
            detail => write!(f, "{}: {detail}", self.code.message()),
        }
    }
}

impl std::error::Error for Denial {}
