//! The C ABI: one file per room, and the machinery of the boundary apart from it.
//!
//! | file | owns |
//! |---|---|
//! | [`guard`] | the one way in: a panic becomes an error, the outcome is kept for the calling thread |
//! | `descriptor` | descriptors that stay the caller's |
//! | [`error`] | statuses, messages, and the last outcome of each thread |
//! | `handle` | what an opaque handle knows of its maker |
//! | `input` | C strings, bytes and output places as Rust types, within their bounds |
//! | `sigpipe` | that a pipe without a reader is an error, whatever the caller does with SIGPIPE |
//! | [`string`] | what C gets back, and how C gives it back |
//! | [`version`], [`mask`], [`codec`], [`tls`], [`capability`], [`configuration`], [`network`], [`connector`], [`listener`], [`seam`] | the functions |
//! | [`limits`] | limits that a caller has to keep |
//!
//! `include/pve_tunnel.h` is made of this folder by cbindgen (`tests/header.rs`); the comments on
//! the exported functions are the header's comments, and so are written for readers of C.

// The boundary is where raw pointers become references; nothing outside this folder may need this.
#![allow(unsafe_code)]

pub mod capability;
pub mod codec;
pub mod configuration;
pub mod connector;
mod descriptor;
pub mod error;
pub mod guard;
mod handle;
mod input;
pub mod limits;
pub mod listener;
pub mod mask;
pub mod network;
pub mod seam;
mod sigpipe;
pub mod string;
pub mod tls;
pub mod version;
