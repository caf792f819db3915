//! The surroundings of the rooms in every Muster program.
//!
//! | room | holds |
//! | --- | --- |
//! | [`program`] | starts and stops a program: logs, signals, the admin port, settings that change |
//! | [`lifecycle`] | the tasks of a process; drain, abort and signals |
//! | [`http`] | serves HTTP on a listener, with limits, a drain and the header case of old clients |
//! | [`tls`] | TLS for listeners and clients; certificates are read again when they change |
//! | [`telemetry`] | logs, metrics and traces: the only room that names a subscriber or an exporter |
//! | [`audit`] | the audit log: records of decisions, as log events and in a file |
//! | [`address`] | addresses of this machine that others can connect to |
//! | [`figures`] | the activity of a process, from its metrics, for people and for other processes |
//! | [`exposure`] | the rule about listeners that other machines can reach |
//! | [`fairness`] | fair shares of a process for tenants that send it requests |
//! | [`crowd`] | callers that share a piece of work wait for each other |
//! | [`lane`] | the usual and the slow lane for the work of connections |
//! | [`proxies`] | the address of a client behind proxies |
//! | [`certificates`] | the accounts that certificates of clients stand for |
//! | [`browser`] | requests that a browser sends for a page of another site |
//! | [`admin`] | the admin port's `/live`, `/ready` and `/metrics` |
//! | [`inventory`] | the process's copy of the registry, reported for comparison with other processes |
//!
//! No room here depends on services or instances, except the inventory, which names them.

pub mod address;
pub mod admin;
pub mod audit;
pub mod browser;
pub mod certificates;
pub mod crowd;
pub mod exposure;
pub mod fairness;
pub mod figures;
pub mod files;
pub mod http;
pub mod inventory;
pub mod lane;
pub mod lifecycle;
pub mod machine;
pub mod program;
pub mod proxies;
pub mod telemetry;
pub mod tls;
