//! The process on the source: control protocol, forwards.
