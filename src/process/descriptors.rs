//! Descriptors: a connection on clear TCP takes up to six, for the kernel moves its data through
//! pipes.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What 256 connections on each of some forwards need, with room.
const WANTED: u64 = 16_384;

/// Lets this process open as many as it may need, or as its hard limit allows. Where that is
/// refused, connections that find none wait until there are some again.
pub(crate) fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = WANTED.min(hard);
        if soft < wanted {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
        }
    }
}
