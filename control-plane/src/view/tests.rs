//! The view against a plain model.
