//! The plane `tcp`: a direct connection in clear text over TCP.

use crate::connection::Connection;
use crate::measure::{Contender, Contest, Effort, Goal, Rows, Sample, Title, rate};
use crate::peer::{bare, socat};
use crate::{load, plane};
use std::net::{TcpListener, TcpStream};

/// The number of bytes in one turn.
const BYTES: u64 = 4 << 30;

const SOCAT: &str = "socat";
const SPLICE: &str = "bare splice";
const TCP: &str = "bare loopback TCP";

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    let bytes = effort.bytes(BYTES);
    let socat = Connection::through(socat::pair()?);
    let ours = Connection::through(plane::tunnel("tcp")?);
    let splice = Connection::through(bare::splice_pair());
    let (client, server) = loopback();
    let contest = Contest::run(
        effort.turns(),
        vec![
            Contender::new("pve-tunnel", || ours.transfer(bytes)),
            Contender::new(SOCAT, || socat.transfer(bytes)),
            Contender::new(SPLICE, || splice.transfer(bytes)),
            Contender::new(TCP, || {
                Sample::of(rate(bytes, load::transfer(&client, &server, bytes)))
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
    rows.extend([
        contest.row(speed, SOCAT, at_least(1.5), value),
        contest.row(cost, SOCAT, None, Sample::cost),
        contest.row(speed, SPLICE, at_least(0.95), value),
        contest.row(cost, SPLICE, Some(Goal::AtMost(1.1)), Sample::cost),
        contest.row(speed, TCP, None, value),
    ]);
    Ok(())
}

/// The two ends of a TCP connection.
fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}
