//! The bus over NATS.
