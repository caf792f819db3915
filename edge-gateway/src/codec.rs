//! The codecs: every byte that the gateway exchanges with its watchers is written or read here.
//!
//! | file | for |
//! | --- | --- |
//! | `json` | the texts of WebSocket watches: events, bookmarks, resets |
//! | `websocket` | the frames around those texts, and the frames of clients |
//! | `event_stream` | the same texts as server-sent events |
//! | `utf8` | checks the clients' texts |
//! | `grpc` | the messages of both gRPC watches, and their requests |
//!
//! All of it is pure: values in, bytes out, or the other way round. No codec knows a socket, a session or a
//! shard.

pub(crate) mod event_stream;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
pub(crate) mod grpc;
pub(crate) mod json;
mod utf8;
pub(crate) mod websocket;
