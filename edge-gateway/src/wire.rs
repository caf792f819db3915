//! What goes over the wire between the gateway and its clients: frames, handshakes, refusals.

pub(crate) mod frame;
pub(crate) mod refusal;
pub(crate) mod route;
pub(crate) mod ws;
