//! Through a websocket, one way: what pveproxy can take and give, and what the connector costs.

use crate::load;
use crate::measure::{Clocks, Contender, Contest, Effort, GIB, Goal, Row, Sample, Title};
use crate::peer::node::{Ends, Front, Node};
use crate::peer::websocat;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// How many bytes go through in one turn. pveproxy may need as much memory: it buffers what nobody
/// takes.
const BYTES: u64 = 2 << 30;

/// What the connector may cost at pveproxy, in CPU s/GiB.
const COST: f64 = 0.40;

const WEBSOCAT: &str = "websocat";

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

pub fn up(effort: &Effort) -> Result<Vec<Row>, String> {
    Ok(run(effort, Way::Up))
}

pub fn down(effort: &Effort) -> Result<Vec<Row>, String> {
    Ok(run(effort, Way::Down))
}

fn run(effort: &Effort, way: Way) -> Vec<Row> {
    let mut rows = Vec::new();
    for part in [at_pveproxy, at_test_node] {
        match part(effort, way) {
            Ok(told) => rows.extend(told),
            Err(reason) => println!("  left out: {reason}"),
        }
    }
    rows
}

/// pveproxy is one process on one core, and that has to be the limit.
fn at_pveproxy(effort: &Effort, way: Way) -> Result<Vec<Row>, String> {
    let front = Front::Pveproxy;
    // Only says why there is none: each turn has a new one, with nothing in its buffers.
    drop(Node::start(front)?);
    let wanted = RefCell::new(Vec::new());
    let ours = || {
        let mut node = Node::start(front).unwrap();
        let ends = node.connection();
        let clocks = Clocks::new([("connector", node.connector()), (front.name(), node.pid())]);
        let (started, before) = (Instant::now(), wanted_core(node.pid()));
        let sample = turn(effort, way, &ends, &clocks);
        let time = wanted_core(node.pid()) - before;
        let share = time.as_secs_f64() / started.elapsed().as_secs_f64();
        wanted.borrow_mut().push(share);
        sample
    };
    let contest = Contest::hold(effort.runs(), vec![Contender::new("pve-tunnel", ours)]);
    let busy = |sample: &Sample| sample.cpu[front.name()] * sample.value * 1e6 / GIB;
    let core = title(way, "pveproxy's core", "of a core");
    let core_wanted = title(way, "pveproxy's core, wanted", "of a core");
    let cost = title(way, "connector at pveproxy", "CPU s/GiB");
    // The first turn does not count.
    let wanted = &wanted.borrow()[1..];
    Ok(vec![
        contest.constant(core, ("one core", 1.0), Some(Goal::AtLeast(0.95)), busy),
        // Who shares the machine takes from the figure above, but not from this one.
        Row::new(
            core_wanted,
            "one core",
            wanted,
            &vec![1.0; wanted.len()],
            None,
        ),
        contest.constant(cost, ("limit", COST), Some(Goal::AtMost(1.0)), client),
    ])
}

/// The test node, whose codec is not ours, with the connector and with websocat before it.
fn at_test_node(effort: &Effort, way: Way) -> Result<Vec<Row>, String> {
    let program = websocat::program()?;
    let front = Front::TestNode;
    let mut node = Node::start(front)?;
    let ours = node.connection();
    let (websocat, theirs) = node.connection_by_websocat(&program);
    let server = (front.name(), node.pid());
    let our_clocks = Clocks::new([("connector", node.connector()), server]);
    let their_clocks = Clocks::new([(WEBSOCAT, websocat.pid()), server]);
    let contest = Contest::hold(
        effort.runs(),
        vec![
            Contender::new("pve-tunnel", || turn(effort, way, &ours, &our_clocks)),
            Contender::new(WEBSOCAT, || turn(effort, way, &theirs, &their_clocks)),
        ],
    );
    let speed = title(way, "test node", "MB/s");
    let cost = title(way, "connector at test node", "CPU s/GiB");
    let (faster, cheaper) = (Some(Goal::AtLeast(2.0)), Some(Goal::AtMost(0.5)));
    Ok(vec![
        contest.row(speed, WEBSOCAT, faster, |sample| sample.value),
        contest.row(cost, WEBSOCAT, cheaper, client),
    ])
}

fn title<'a>(way: Way, name: &'a str, unit: &'a str) -> Title<'a> {
    let case = match way {
        Way::Up => "websocket-up",
        Way::Down => "websocket-down",
    };
    Title { case, name, unit }
}

fn turn(effort: &Effort, way: Way, ends: &Ends, clocks: &Clocks) -> Sample {
    let (from, to) = match way {
        Way::Up => (&ends.source, &ends.target),
        Way::Down => (&ends.target, &ends.source),
    };
    load::turn(from, to, effort.bytes(BYTES), clocks)
}

/// What the program before the server costs.
fn client(sample: &Sample) -> f64 {
    let names = ["connector", WEBSOCAT];
    names.iter().filter_map(|name| sample.cpu.get(*name)).sum()
}

/// How long a process of one thread has been on a core or has waited for one so far (the kernel's
/// Documentation/scheduler/sched-stats.rst).
fn wanted_core(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let nanoseconds = text.split_whitespace().take(2);
    Duration::from_nanos(nanoseconds.map(|word| word.parse::<u64>().unwrap()).sum())
}
