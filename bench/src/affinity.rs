//! Processor affinity. When latency is measured, each node has one core.
//!
//! Without this, the kernel places programs that wait for each other on one core or on two, and
//! this varies. Waking the other core takes twenty times as long, so the results would show the
//! placement.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;
use std::thread::available_parallelism;

/// A node. The source uses the first core, the target the second, if there is one.
#[derive(Clone, Copy)]
pub enum Side {
    Source,
    Target,
}

impl Side {
    pub fn pin_this_thread(self) {
        self.pin(Pid::from_raw(0));
    }

    /// Pins all threads that the process has at this time.
    pub fn pin_process(self, pid: u32) {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
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
