//! Whatever dies, every watcher ends up where etcd is and is told nothing false on the way.
//!
//! Each case has two control planes, two gateways, two hundred watchers and random writers, breaks one thing,
//! and asks the oracle. It prints one line: what was done to how many, what was lost, how long it took.
//! `MUSTER_TEST_SEED` repeats a run, `MUSTER_TEST_LONG` adds the long variants.
//!
//! | room | breaks |
//! | --- | --- |
//! | [`stage`] | nothing: what the cases have in common |
//! | [`planes`] | control planes and gateways |
//! | [`bus`] | NATS and the ways to it |
//! | [`store`] | etcd and the ways to it |
//! | [`edge`] | what is behind the answers of gateways |
//! | [`hostile`] | nothing: delays and failures beside hostile clients |
//! | [`slow`] | those who do not read |
//! | [`rolling`] | gateways in turn, under thousands |

mod bus;
mod edge;
mod hostile;
mod planes;
mod rolling;
mod slow;
mod stage;
mod store;
