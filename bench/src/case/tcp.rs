//! A direct connection by clear TCP.

use crate::load;
use crate::measure::{Contender, Contest, Effort, Goal, Row, Sample, Title, rate};
use crate::path::{Path, ours};
use crate::peer::{bare, socat};
use std::net::{TcpListener, TcpStream};

const BYTES: u64 = 4 << 30;

const SOCAT: &str = "socat";
const SPLICE: &str = "bare splice";
const TCP: &str = "bare loopback TCP";

pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    let bytes = effort.bytes(BYTES);
    let socat = Path::through(socat::pair()?);
    let ours = Path::through(ours("tcp")?);
    let splice = Path::through(bare::splice_pair());
    let (near, far) = loopback();
    let contest = Contest::hold(
        effort.runs(),
        vec![
            Contender::new("pve-tunnel", || ours.stream(bytes)),
            Contender::new(SOCAT, || socat.stream(bytes)),
            Contender::new(SPLICE, || splice.stream(bytes)),
            Contender::new(TCP, || {
                Sample::of(rate(bytes, load::stream(&near, &far, bytes)))
            }),
        ],
    );
    let speed = Title {
        case: "tcp",
        name: "throughput",
        unit: "MB/s",
    };
    let cost = Title {
        case: "tcp",
        name: "cost",
        unit: "CPU s/GiB",
    };
    let at_least = |least| Some(Goal::AtLeast(least));
    let value = |sample: &Sample| sample.value;
    Ok(vec![
        contest.row(speed, SOCAT, at_least(1.5), value),
        contest.row(cost, SOCAT, None, Sample::cost),
        contest.row(speed, SPLICE, at_least(0.95), value),
        contest.row(cost, SPLICE, Some(Goal::AtMost(1.1)), Sample::cost),
        contest.row(speed, TCP, None, value),
    ])
}

/// The source and the sink on one TCP connection.
fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (near, far)
}
