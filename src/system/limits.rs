//! The limit of open descriptors.
//!
//! A connection on clear TCP takes up to six descriptors, because the kernel moves its data through
//! pipes.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors for 256 connections on each of several forwards, with a reserve.
const WANTED: u64 = 16_384;

/// Raises the soft limit of open descriptors to [`WANTED`], or to the hard limit if that is lower.
///
/// A failure is ignored: connections that find no descriptor wait until one is free.
pub(crate) fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = WANTED.min(hard);
        if soft < wanted {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
        }
    }
}
