//! What the processes that hold tokens, tickets and session keys require of their memory.

use super::lock;
use nix::sys::prctl;
use std::io;
use std::sync::Mutex;

/// Calls in this process that need it.
static USERS: Mutex<Users> = Mutex::new(Users {
    count: 0,
    dumpable_before: true,
});

struct Users {
    count: usize,
    dumpable_before: bool,
}

/// While a value lives, memory of the heap is wiped before it is freed, and this process is not
/// dumpable: it writes no core, whatever RLIMIT_CORE is, and only root may trace it or read its
/// memory (PR_SET_DUMPABLE, ptrace(2)).
#[derive(Debug)]
pub(crate) struct ConfidentialMemory(());

impl ConfidentialMemory {
    /// For the whole process, until the last value is dropped.
    pub(crate) fn require() -> io::Result<Self> {
        let mut users = lock(&USERS);
        if users.count == 0 {
            users.dumpable_before = prctl::get_dumpable()?;
            prctl::set_dumpable(false)?;
            crate::ALLOCATOR.set_wiping(true);
        }
        users.count += 1;
        Ok(Self(()))
    }
}

impl Drop for ConfidentialMemory {
    fn drop(&mut self) {
        let mut users = lock(&USERS);
        users.count -= 1;
        if users.count == 0 {
            crate::ALLOCATOR.set_wiping(false);
            let _ = prctl::set_dumpable(users.dumpable_before);
        }
    }
}
