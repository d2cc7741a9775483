//! The C ABI. Each module of the library has one file with its C functions; the other files serve
//! all of them.
//!
//! | file | content |
//! |---|---|
//! | [`guard`] | runs the body of each function: a panic becomes an error, and the result is kept for the calling thread |
//! | `descriptor` | copies of the caller's descriptors |
//! | [`error`] | statuses, messages, and the last result of each thread |
//! | `handle` | opaque handles, which work only in the process that created them |
//! | `input` | C strings, bytes and output pointers as Rust types, with their limits |
//! | `memory` | allocations whose size depends on the input |
//! | `sigpipe` | blocking SIGPIPE during a call |
//! | [`string`] | strings and bytes for C, and the functions that free them |
//! | [`version`], [`mask`], [`codec`], [`tls`], [`capability`], [`configuration`], [`network`], [`connector`], [`listener`], [`seam`] | the C functions |
//! | [`limits`] | limits that a caller must not exceed |
//!
//! cbindgen generates `include/pve_tunnel.h` from this folder (see `tests/header.rs`). The comments
//! of the exported functions become the comments of the header, so they are written for C
//! programmers.

// Raw pointers become references here.
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
mod memory;
pub mod network;
pub mod seam;
mod sigpipe;
pub mod string;
pub mod tls;
pub mod version;
