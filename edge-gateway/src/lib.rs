//! The edge gateway: holds the watchers, pushes every instance change to them, passes everything else on.
//!
//! ```text
//! bus ──▶ upstream ──▶ fanout (shards) ──▶ watchers
//!            │             ▲ sockets   the rooms that shards use: session, codec
//!            │          gateway ──▶ forward ──▶ control plane
//!            └── requests from the control plane what the bus lost
//! ```
//!
//! | room | comes in | goes out |
//! | --- | --- | --- |
//! | `app` | settings and surroundings | the rooms, joined |
//! | `gateway` | requests | sockets for the shards, requests for `forward` |
//! | `upstream` | events, interest, bookmarks, answers | pushes in order, each once |
//! | `hedge` | requests over the bus | the first answer, of one control plane or of all |
//! | `fanout` | pushes, sockets | bytes, one write per session for all that is pending |
//! | `fleet` | announcements of other gateways | whether one is ready to take watchers |
//! | `survey` | a change | how many watchers of all gateways have been given it |
//! | `session` | frames, time | frames to write, and when and why to end |
//! | `codec` | events, bookmarks, bytes of clients | bytes for watchers, frames of clients |
//! | `polls` | finds, before and after their answers | the clients that poll, and the ones that lack a change |
//! | `reads` | finds, and what control planes have resolved | answers that need no control plane |
//! | `eureka` | the services of a tenant, registrations | answers in Eureka's words, instances of the registry |
//! | `beats` | heartbeats, answers of control planes | whether a heartbeat is answered here; reports to the publisher |
//! | `heartbeat` | pongs | heartbeats for `forward` |
//! | [`forward`] | requests | answers of a control plane |
//! | `policy` | versions that bookmarks name, bundles | the policy that decides, or the reason that none does |
//! | `zone` | the services of a tenant | the names that DNS answers for |
//! | `xds` | the services of a tenant, requests of Envoy and gRPC | the answers that they get next |
//! | `logins` | names and passwords | tokens of earlier logins |
//! | `limits` | a service that wants to watch | a permit, or the limit that is reached |
//! | [`settings`] | flags, environment, file | the settings of each room |
//!
//! Rooms never import each other in a circle. Types that several rooms share live in modules of their own:
//! `watch` (groups, tickets, selectors), `push` (changes and their encodings), `close` (reasons to close a
//! session), `timer` (the wheel).

mod app;
mod beats;
mod catalogue;
mod close;
mod codec;
mod eureka;
mod fanout;
mod fleet;
pub mod forward;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gateway;
mod heartbeat;
mod hedge;
mod http_sd;
mod limits;
mod logins;
mod metrics;
#[cfg(feature = "micro")]
pub mod micro;
mod policy;
mod polls;
mod push;
mod rates;
mod readiness;
mod reads;
mod session;
pub mod settings;
mod survey;
mod timer;
mod trace;
mod upstream;
mod watch;
mod xds;
mod zone;

pub use app::{App, Parts, StartError};

pub use crate::settings::Config;
