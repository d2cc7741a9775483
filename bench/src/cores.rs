//! Who runs where, when a wake-up is what counts: each node has one core.
//!
//! Left to itself, the system puts programs that wait for each other on one core or on two, as it
//! happens, and waking the other core takes twenty times as long: the figures would show that.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;
use std::thread::available_parallelism;

/// A node, of which the numbers of its processes or threads are to be told.
#[derive(Clone, Copy)]
pub enum Node {
    Source,
    Target,
}

impl Node {
    /// This thread is its own.
    pub fn enter(self) {
        self.pin(Pid::from_raw(0));
    }

    /// That process is its own, with all threads that it has by now.
    pub fn own(self, process: u32) {
        for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
            let number = thread.unwrap().file_name().to_str().unwrap().parse();
            self.pin(Pid::from_raw(number.unwrap()));
        }
    }

    fn pin(self, thread: Pid) {
        let cores = available_parallelism().map_or(1, usize::from);
        let mut set = CpuSet::new();
        set.set(self as usize % cores).unwrap();
        sched_setaffinity(thread, &set).unwrap();
    }
}
