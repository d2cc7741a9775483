//! A direct connection by TLS.

use crate::measure::{Contender, Contest, Effort, Goal, Row, Sample, Title};
use crate::path::{Path, ours};
use crate::peer::{bare, stunnel};

const BYTES: u64 = 2 << 30;

const STUNNEL: &str = "stunnel";
const RUSTLS: &str = "bare rustls";
const SUM: &str = "bare rustls + UNIX hop";

pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    let bytes = effort.bytes(BYTES);
    let stunnel = Path::through(stunnel::pair()?);
    let ours = Path::through(ours("tls")?);
    let rustls = Path::through(bare::tls_pair());
    let (inside, hop) = (
        Path::through(bare::tls_inside()),
        Path::through(bare::hop()),
    );
    let contest = Contest::hold(
        effort.runs(),
        vec![
            Contender::new("pve-tunnel", || ours.stream(bytes)),
            Contender::new(STUNNEL, || stunnel.stream(bytes)),
            Contender::new(RUSTLS, || rustls.stream(bytes)),
            // Rustls over TCP alone, and what the UNIX sockets alone cost.
            Contender::new(SUM, || {
                let mut sample = inside.demand(bytes);
                sample.cpu.extend(hop.stream(bytes).cpu);
                sample
            }),
        ],
    );
    let speed = Title {
        case: "tls",
        name: "throughput",
        unit: "MB/s",
    };
    let cost = Title {
        case: "tls",
        name: "cost",
        unit: "CPU s/GiB",
    };
    let at_least = |least| Some(Goal::AtLeast(least));
    let at_most = |most| Some(Goal::AtMost(most));
    Ok(vec![
        contest.row(speed, STUNNEL, at_least(1.5), |sample| sample.value),
        contest.row(cost, STUNNEL, at_most(0.7), Sample::cost),
        contest.row(speed, RUSTLS, at_least(0.85), |sample| sample.value),
        contest.row(cost, RUSTLS, None, Sample::cost),
        contest.row(cost, SUM, at_most(1.15), Sample::cost),
    ])
}
