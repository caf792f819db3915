//! A control plane in one process, asked as its clients ask it.
//!
//! All of it is one program: each further one would be linked with the whole of the product again.

mod accounts;
mod answers;
mod api;
mod audit;
mod declarations;
mod digests;
mod fairness;
mod guarded;
mod hooked;
mod interest;
mod joining;
mod labels;
mod model;
mod openapi;
mod overrides;
mod probe;
mod protection;
mod questions;
mod reads;
mod session;
mod settings;
mod settled;
mod shifts;
mod store_faults;
mod storm;
mod timeline;
