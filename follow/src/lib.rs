//! The decisions by which an edge gateway follows the registry, without the tasks that carry them out.
//!
//! ```text
//! events, bookmarks, replies ──▶ Tracker ──▶ effects: deliver, subscribe, request
//!                                  ▲
//! sessions that resume ──▶ Resumes ┘──▶ steps: wait, request, begin with a preface
//! ```
//!
//! | module | comes in | goes out |
//! | --- | --- | --- |
//! | [`message`] | bytes of bookmarks and interest changes | facts for the tracker |
//! | [`reply`] | parts of replicas' replies | complete replies, or the reason to request again |
//! | [`topic`] | events and replays of one provider | its changes in order, each once |
//! | [`tracker`] | facts about all topics and groups | [`Effect`]s |
//! | [`suspicion`] | bookmarks, confirmations of the store | the proof that the store was restored |
//! | [`read`] | finds that are answered here | the services that answer, or the reason to ask |
//! | [`resume`] | sessions with the revision of an earlier watch | the changes that they missed |
//!
//! Nothing here waits, reads a clock, opens a socket or spawns a task. The gateway does that in its
//! `upstream` room, and the simulators in `sim` do the same with dice instead of a network, so the simulators
//! test the code that runs in production. The only shared mutable state is in [`Push`], whose encoded bytes
//! are filled by whichever shard needs them first.

pub mod message;
pub mod push;
pub mod read;
pub mod reply;
pub mod resume;
pub mod suspicion;
pub mod topic;
pub mod tracker;

mod bytes;
mod cause;
mod group;
mod selector;
#[cfg(test)]
mod testing;

pub use cause::Cause;
pub use group::GroupId;
pub use push::Push;
pub use selector::Selector;
pub use tracker::{Effect, Tracker};
