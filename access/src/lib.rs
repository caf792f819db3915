//! Access control: accounts, roles, tokens, and the one decision that both planes share.
//!
//! ```text
//! request ──route──▶ Access (what is needed) ─┐
//! header  ──token──▶ Identity ────────────────┼─▶ Grant ──labels──▶ yes or no
//! store or bus ────▶ Policy (accounts, roles) ┘
//! ```
//!
//! Everything here is pure: a [`policy::Policy`] is one immutable state at a revision, and a decision is a
//! function of the policy, the request and the time. Both planes and the standalone call the same functions,
//! so they cannot differ. Whatever is unknown is refused.
//!
//! Routes, records, codes and texts are Service-Center's, so that its clients and its stored accounts work.

pub mod account;
mod admitted;
mod authentication;
pub mod bundle;
mod claims;
pub mod decision;
pub mod denial;
pub mod issuer;
pub mod keys;
pub mod password;
pub mod policy;
pub mod role;
pub mod route;
pub mod token;

pub use account::{Account, AccountStatus};
pub use admitted::Admitted;
pub use bundle::Bundle;
pub use decision::{Certified, Grant, Identity, Labels};
pub use denial::Denial;
pub use issuer::{ExternalIssuer, IssuerKeys};
pub use policy::{AccountState, Policy, Scope};
pub use role::{Need, Permission, Resource, ResourceType, Role, Verb};
pub use route::{Access, LabelSource, access_of};
