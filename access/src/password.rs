//! Passwords: hashes that are made here, and those that Service-Center has stored.
