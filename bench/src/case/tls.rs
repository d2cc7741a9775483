//! The plane `tls`: a direct connection through TLS.

use crate::connection::Connection;
use crate::measure::{Contender, Contest, Effort, Goal, Rows, Sample, Title};
use crate::peer::{bare, stunnel};
use crate::plane;

/// The number of bytes in one turn.
const BYTES: u64 = 2 << 30;

const STUNNEL: &str = "stunnel";
const RUSTLS: &str = "bare rustls";
const SUM: &str = "bare rustls + UNIX hop";

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    let bytes = effort.bytes(BYTES);
    let stunnel = Connection::through(stunnel::pair()?);
    let ours = Connection::through(plane::tunnel("tls")?);
    let rustls = Connection::through(bare::tls_pair());
    let (inside, hop) = (
        Connection::through(bare::tls_inside()),
        Connection::through(bare::hop()),
    );
    let contest = Contest::run(
        effort.turns(),
        vec![
            Contender::new("pve-tunnel", || ours.transfer(bytes)),
            Contender::new(STUNNEL, || stunnel.transfer(bytes)),
            Contender::new(RUSTLS, || rustls.transfer(bytes)),
            // The cost of rustls and TCP alone, plus the cost of the UNIX sockets alone.
            Contender::new(SUM, || {
                let mut sample = inside.transfer_inside(bytes);
                sample.cpu.extend(hop.transfer(bytes).cpu);
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
    rows.extend([
        contest.row(speed, STUNNEL, at_least(1.5), |sample| sample.value),
        contest.row(cost, STUNNEL, at_most(0.7), Sample::cost),
        contest.row(speed, RUSTLS, at_least(0.85), |sample| sample.value),
        contest.row(cost, RUSTLS, None, Sample::cost),
        contest.row(cost, SUM, at_most(1.15), Sample::cost),
    ]);
    Ok(())
}
