//! The registry as a zone of DNS: `order.shop.muster.` has the addresses of the instances of `order`.
//!
//! ```text
//! services ──▶ zone ──▶ answer ──▶ message ──▶ udp, tcp
//! ```
//!
//! | room | comes in | goes out |
//! | --- | --- | --- |
//! | `label` | names of the registry | labels of DNS |
//! | `names` | labels of a question | the ways to read them |
//! | `endpoint` | `rest://10.0.0.9:9090` | protocol, host and port |
//! | `group` | the versions of a service | the instances that take traffic |
//! | `zone` | all services of a tenant | the service behind a name |
//! | `select` | a name | the instances that it means |
//! | `answer` | a question, the zone | records |
//! | `wire` | addresses and endpoints | their records as bytes |
//! | `message` | bytes | bytes |
//! | `records` | a zone, a service | its records for people |
//! | `rate` | the source of a packet | an answer, a short one, or none |
//! | `board` | the state of the zone, counts | the same, for answers and metrics |
//! | `server` | sockets, the state of the zone | answers |
//!
//! Everything before `server` is pure.

mod answer;
mod board;
mod config;
mod endpoint;
mod group;
mod label;
mod message;
mod metrics;
mod names;
mod order;
mod origin;
mod rate;
mod records;
mod select;
mod server;
mod source;
#[cfg(test)]
mod tests;
mod text;
mod wire;
mod zone;

pub use answer::State;
pub use board::Board;
pub use config::DnsConfig;
pub use message::{Code, Transport, respond, slow_down};
pub use metrics::register;
pub use origin::{NoDomain, Origin};
pub use records::{Told, records};
pub use server::Server;
pub use source::{Service, Stamp};
pub use zone::Zone;
