//! One direction through a websocket: pveproxy's throughput, and the cost of the connector.

use crate::load::{self, Fill};
use crate::measure::{Clocks, Contender, Contest, Effort, GIB, Goal, Row, Rows, Sample, Title};
use crate::peer::node::{Front, Node};
use crate::peer::websocat;
use crate::throttle::Throttle;
use crate::tunnel::{CONNECTOR, Ends, Tunnel};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// The number of bytes in one turn. pveproxy may need as much memory: it buffers data for a slow
/// reader without a limit.
const BYTES: u64 = 2 << 30;

/// The limit for the connector's cost at pveproxy, in CPU s/GiB.
const COST: f64 = 0.40;

const WEBSOCAT: &str = "websocat";

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// The processes of pveproxy that a node has by default.
const PROCESSES: u32 = 3;

/// The part of a core that each of them gets, so that they are the limit and not the cores of this machine,
/// which the source uses, too.
const PART: u32 = 10;

/// The number of bytes in one turn with such a part.
const FEW_BYTES: u64 = BYTES / 8;

pub fn up(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    run(effort, Direction::Up, rows)?;
    for part in [PART, 1] {
        match several_processes(effort, part) {
            Ok(row) => rows.push(row),
            Err(reason) => crate::output::line(format_args!("  skipped: {reason}")),
        }
    }
    Ok(())
}

pub fn down(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    run(effort, Direction::Down, rows)
}

fn run(effort: &Effort, direction: Direction, rows: &mut Rows) -> Result<(), String> {
    for part in [at_pveproxy, at_test_node] {
        match part(effort, direction) {
            Ok(results) => rows.extend(results),
            Err(reason) => crate::output::line(format_args!("  skipped: {reason}")),
        }
    }
    Ok(())
}

/// pveproxy is one process on one core, which should be the limit of the path.
fn at_pveproxy(effort: &Effort, direction: Direction) -> Result<Vec<Row>, String> {
    let front = Front::Pveproxy;
    // Returns the error if pveproxy cannot start on this machine. Each turn starts a new one, whose
    // buffers are empty.
    drop(Node::start(front)?);
    let runnable = RefCell::new(Vec::new());
    let ours = || {
        let mut node = Node::start(front).unwrap();
        let ends = node.connect();
        let clocks = Clocks::new(node.processes());
        let (started, before) = (Instant::now(), runnable_time(node.pid()));
        let sample = turn(effort, direction, &ends, &clocks);
        let time = runnable_time(node.pid()) - before;
        let share = time.as_secs_f64() / started.elapsed().as_secs_f64();
        runnable.borrow_mut().push(share);
        sample
    };
    let contest = Contest::run(effort.turns(), vec![Contender::new("pve-tunnel", ours)]);
    let busy = |sample: &Sample| sample.cpu[front.name()] * sample.value * 1e6 / GIB;
    let core = title(direction, "pveproxy's core", "of a core");
    let core_runnable = title(direction, "pveproxy, running or runnable", "of a core");
    let cost = title(direction, "connector at pveproxy", "CPU s/GiB");
    // `Contest` discards the first turn.
    let runnable = &runnable.borrow()[1..];
    let one_core = vec![1.0; runnable.len()];
    Ok(vec![
        contest.row_against_constant(core, ("one core", 1.0), Some(Goal::AtLeast(0.95)), busy),
        // Other programs reduce the CPU share in the row above. This row includes the time that
        // pveproxy waited for a core.
        Row::new(core_runnable, "one core", runnable, &one_core, None),
        contest.row_against_constant(cost, ("limit", COST), Some(Goal::AtMost(1.0)), client),
    ])
}

/// One stream in lanes, compared with one on a websocket of its own, at as many processes. Each of them
/// gets one of `part` parts of a core, or as much as there is.
fn several_processes(effort: &Effort, part: u32) -> Result<Row, String> {
    drop(Node::with_processes(PROCESSES)?);
    drop(Throttle::threads_of(&[], part)?);
    let bytes = match part {
        1 => BYTES,
        _ => FEW_BYTES,
    };
    let transfer = |has_lanes: bool| {
        let mut node = Node::with_processes(PROCESSES).unwrap();
        if has_lanes {
            node.use_lanes();
        }
        let Ends { source, sink } = node.connect();
        let clocks = Clocks::new(node.processes());
        let pids = node.pids();
        let _throttle = (part > 1).then(|| Throttle::threads_of(pids, part).unwrap());
        load::measured_transfer(Fill::Data, &source, &sink, effort.bytes(bytes), &clocks)
    };
    let one = "one websocket";
    let contest = Contest::run(
        effort.turns(),
        vec![
            Contender::new("pve-tunnel", || transfer(true)),
            Contender::new(one, || transfer(false)),
        ],
    );
    let name = match part {
        1 => "lanes at three pveproxy",
        _ => "lanes at three slow pveproxy",
    };
    let title = title(Direction::Up, name, "MB/s");
    let faster = Some(Goal::AtLeast(1.4));
    Ok(contest.row(title, one, faster, |sample| sample.value))
}

/// Compares the connector with websocat. Both connect to the test node, whose codec is independent
/// of pve-tunnel's.
fn at_test_node(effort: &Effort, direction: Direction) -> Result<Vec<Row>, String> {
    let program = websocat::program()?;
    let front = Front::TestNode;
    let mut node = Node::start(front)?;
    let ours = node.connect();
    let (websocat, theirs) = node.connect_by_websocat(&program);
    let our_clocks = Clocks::new(node.processes());
    let their_clocks = Clocks::new([(WEBSOCAT, websocat.pid()), (front.name(), node.pid())]);
    let contest = Contest::run(
        effort.turns(),
        vec![
            Contender::new("pve-tunnel", || turn(effort, direction, &ours, &our_clocks)),
            Contender::new(WEBSOCAT, || turn(effort, direction, &theirs, &their_clocks)),
        ],
    );
    let speed = title(direction, "test node", "MB/s");
    let cost = title(direction, "connector at test node", "CPU s/GiB");
    let (faster, cheaper) = (Some(Goal::AtLeast(2.0)), Some(Goal::AtMost(0.5)));
    Ok(vec![
        contest.row(speed, WEBSOCAT, faster, |sample| sample.value),
        contest.row(cost, WEBSOCAT, cheaper, client),
    ])
}

fn title<'a>(direction: Direction, name: &'a str, unit: &'a str) -> Title<'a> {
    let case = match direction {
        Direction::Up => "websocket-up",
        Direction::Down => "websocket-down",
    };
    Title { case, name, unit }
}

fn turn(effort: &Effort, direction: Direction, ends: &Ends, clocks: &Clocks) -> Sample {
    let (from, to) = match direction {
        Direction::Up => (&ends.source, &ends.sink),
        Direction::Down => (&ends.sink, &ends.source),
    };
    load::measured_transfer(Fill::Data, from, to, effort.bytes(BYTES), clocks)
}

/// The CPU time of the websocket client, in s/GiB: the connector or websocat.
fn client(sample: &Sample) -> f64 {
    let names = [CONNECTOR, WEBSOCAT];
    names.iter().filter_map(|name| sample.cpu.get(*name)).sum()
}

/// How long a process with one thread has used a core or waited for one so far (the kernel's
/// Documentation/scheduler/sched-stats.rst).
fn runnable_time(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let nanoseconds = text.split_whitespace().take(2);
    Duration::from_nanos(nanoseconds.map(|word| word.parse::<u64>().unwrap()).sum())
}
