//! Rates, and the CPU time of processes.

use bench_report::Costs;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::time::Duration;

pub const GIB: f64 = (1_u64 << 30) as f64;

/// Megabytes (10^6 bytes) per second.
pub fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

/// The CPU clocks of the processes in a path, by name. They do not include child processes. Those of
/// the same name are added up.
pub struct Clocks(Vec<(String, ClockId)>);

impl Clocks {
    pub fn new<'a>(processes: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let clock = |(name, pid): (&str, u32)| {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap());
            (name.to_owned(), ClockId::pid_cpu_clock_id(pid).unwrap())
        };
        Self(processes.into_iter().map(clock).collect())
    }

    /// Runs `work`, which moves `bytes`. Returns its result and what each process spent on it.
    pub fn cost<T>(&self, bytes: u64, work: impl FnOnce() -> T) -> (T, Costs) {
        self.cost_by(work, |_| bytes)
    }

    /// The same, for work whose result determines how many bytes it has moved.
    pub fn cost_by<T>(
        &self,
        work: impl FnOnce() -> T,
        bytes: impl FnOnce(&T) -> u64,
    ) -> (T, Costs) {
        let before = self.read();
        let result = work();
        let spent = self.read().into_iter().zip(before);
        let per_gib = GIB / bytes(&result) as f64;
        let mut costs = Costs::default();
        for ((name, _), (after, before)) in self.0.iter().zip(spent) {
            *costs.entry(name.clone()).or_default() += (after - before).as_secs_f64() * per_gib;
        }
        (result, costs)
    }

    fn read(&self) -> Vec<Duration> {
        let read = |(_, clock): &(String, ClockId)| clock_gettime(*clock).unwrap().into();
        self.0.iter().map(read).collect()
    }
}
