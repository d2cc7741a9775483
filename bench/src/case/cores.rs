//! A stream whose limit is one thread: every thread of connector and listener has a tenth of a core.
//! One stream over one connection is served by one thread of each process, and over several lanes by
//! several ones.

use crate::load::transfer_for;
use crate::measure::{Contender, Contest, Effort, Goal, Rows, Sample, Title};
use crate::throttle::Throttle;
use crate::tunnel::{Ends, Tunnel};
use crate::{load, plane};
use serde_json::json;
use std::fs;
use std::time::Duration;
use testing::wait_until;

/// The part of a core that a thread has: one of so many.
const PART: u32 = 10;

/// The first part of a turn, which is not measured, and the rest.
const START: Duration = Duration::from_secs(2);
const TIME: Duration = Duration::from_secs(8);

const TURNS: usize = 5;

/// Bytes after which a stream opens all of its lanes.
const FIRST_BYTES: u64 = 64 << 20;

const ONE: &str = "one connection";

/// Lanes, and the goal for them.
const GOALS: [(u16, f64); 2] = [(4, 3.5), (8, 6.0)];

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    // Only checks whether it is possible here.
    drop(Throttle::threads_of(&[], PART)?);
    let (start, time) = (effort.time(START), effort.time(TIME));
    let names = GOALS.map(|(lanes, _)| format!("{lanes} lanes"));
    let contenders = GOALS
        .iter()
        .zip(&names)
        .map(|((lanes, _), name)| (name.as_str(), *lanes))
        .chain([(ONE, 1)]);
    let contenders = contenders
        .map(|(name, lanes)| Contender::new(name, move || Sample::of(turn(lanes, start, time))));
    let contest = Contest::run(effort.turns().min(TURNS), contenders.collect());
    for ((_, least), name) in GOALS.iter().zip(&names) {
        let title = format!("tls, {name}");
        let title = Title {
            case: "cores",
            name: &title,
            unit: "MB/s",
        };
        let goal = Some(Goal::AtLeast(*least));
        rows.push(contest.row_of(name, title, ONE, goal, |sample| sample.value));
    }
    Ok(())
}

/// The threads of a process that serve lanes.
fn lane_threads(pid: u32) -> u16 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")));
    let lanes = names.filter(|name| name.as_ref().is_ok_and(|name| name.trim() == "lanes"));
    lanes.count().try_into().unwrap()
}

/// The rate of a stream with so many lanes, one of them on each thread.
fn turn(lanes: u16, start: Duration, time: Duration) -> f64 {
    // The first lane runs on the thread of the process.
    let others = lanes - 1;
    let threads = others.max(1);
    let request = json!({ "lanes": lanes, "first_lanes": lanes, "threads": threads });
    let mut tunnel = plane::with_options("tls", &request, json!({ "threads": threads }));
    let Ends { source, sink } = tunnel.connect();
    let processes: Vec<u32> = tunnel.processes().iter().map(|(_, pid)| *pid).collect();
    load::transfer(&source, &sink, FIRST_BYTES);
    wait_until("all lanes are open", || {
        processes.iter().all(|pid| lane_threads(*pid) >= others)
    });
    let _throttle = Throttle::threads_of(&processes, PART).unwrap();
    transfer_for(&[(source, sink)], start, time).rate
}
