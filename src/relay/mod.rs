//! Copying between two byte streams.
