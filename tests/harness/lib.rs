//! Processes, links and watchers for system tests.
