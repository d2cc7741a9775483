//! Decisions over plain data, without sockets, files or processes. Most tests are tables of inputs
//! and results.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod capability;
mod configuration;
mod configuration_lines;
mod configuration_select;
mod endpoint;
mod guard;
mod network;
mod plan;
mod seam;
mod seam_malformed;
