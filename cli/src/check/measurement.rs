//! How fast a plane is: data to and from the meter of the target, over a forward.

use super::interrupt::Interrupt;
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of a read or a write.
const CHUNK: usize = 1 << 17;

/// For a read or a write: longer than the queues of a long path take to move.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a read or a write that waits looks for an interruption.
const SLICE: Duration = Duration::from_millis(100);

/// Longest report of the meter, in bytes.
const MAX_REPORT: usize = 4096;

const GIB: f64 = (1_u64 << 30) as f64;

/// The direction of data, as the source sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// To the target, as the data of a guest.
    Sent,
    /// From the target.
    Received,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    /// The plane.
    pub(crate) plane: String,
    /// The direction.
    pub(crate) direction: Direction,
    /// Bytes that arrived.
    pub(crate) bytes: u64,
    /// From the first byte to the end.
    pub(crate) seconds: f64,
    /// CPU seconds of this node's connector for a GiB; null if they cannot be read.
    pub(crate) source_cpu: Option<f64>,
    /// CPU seconds of the target's process, the listener or a pveproxy, for a GiB.
    pub(crate) target_cpu: Option<f64>,
}

impl Measurement {
    /// MB/s, 10^6 bytes.
    pub(crate) fn rate(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds.max(1e-6)
    }
}

/// Where and how long to measure.
pub(super) struct Meter<'a> {
    /// The local socket of the forward.
    pub(super) socket: &'a Path,
    pub(super) plane: &'a str,
    pub(super) seconds: f64,
    /// The connector, whose CPU time counts.
    pub(super) connector: u32,
    pub(super) interrupt: &'a Interrupt,
}

impl Meter<'_> {
    pub(super) fn measure(&self, direction: Direction) -> io::Result<Measurement> {
        let cpu = cpu_seconds(self.connector);
        let (bytes, elapsed) = match direction {
            Direction::Sent => self.send()?,
            Direction::Received => self.receive()?,
        };
        let cpu = cpu_seconds(self.connector).zip(cpu);
        let report = self.report()?;
        // Data on its way at the end was sent, and did not arrive.
        let arrived = match direction {
            Direction::Sent => report.get("bytes").and_then(Value::as_u64).unwrap_or(0),
            Direction::Received => bytes,
        };
        if arrived == 0 {
            return Err(io::Error::other("no data arrived"));
        }
        let per_gib = |seconds: f64| seconds / (arrived as f64 / GIB);
        Ok(Measurement {
            plane: self.plane.to_owned(),
            direction,
            bytes: arrived,
            seconds: elapsed.as_secs_f64(),
            source_cpu: cpu.map(|(now, before)| per_gib(now - before)),
            target_cpu: report.get("cpu").and_then(Value::as_f64).map(per_gib),
        })
    }

    /// Sends for the time, then waits until the meter has read everything.
    fn send(&self) -> io::Result<(u64, Duration)> {
        let mut stream = self.open(&json!({ "op": "discard" }))?;
        let data = random_bytes()?;
        let started = Instant::now();
        let mut bytes = 0;
        while started.elapsed().as_secs_f64() < self.seconds {
            bytes += self.wait(|| stream.write(&data))? as u64;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut end = [0];
        if self.wait(|| stream.read(&mut end))? > 0 {
            return Err(io::Error::other("the meter sent data"));
        }
        Ok((bytes, started.elapsed()))
    }

    fn receive(&self) -> io::Result<(u64, Duration)> {
        let mut stream = self.open(&json!({ "op": "send", "seconds": self.seconds }))?;
        let mut data = vec![0; CHUNK];
        let started = Instant::now();
        let mut bytes = 0;
        loop {
            match self.wait(|| stream.read(&mut data))? {
                0 => return Ok((bytes, started.elapsed())),
                count => bytes += count as u64,
            }
        }
    }

    fn report(&self) -> io::Result<Value> {
        let mut stream = self.open(&json!({ "op": "report" }))?;
        let mut line = Vec::new();
        let mut data = [0; MAX_REPORT];
        while !line.contains(&b'\n') && line.len() < MAX_REPORT {
            match self.wait(|| stream.read(&mut data))? {
                0 => break,
                count => line.extend_from_slice(&data[..count]),
            }
        }
        Ok(serde_json::from_slice(&line)?)
    }

    fn open(&self, request: &Value) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(self.socket)?;
        stream.set_read_timeout(Some(SLICE))?;
        stream.set_write_timeout(Some(SLICE))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        Ok(stream)
    }

    /// A read or a write, which ends with an error if the check is interrupted, or after [`STALL_TIMEOUT`].
    fn wait<T>(&self, mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let started = Instant::now();
        loop {
            if self.interrupt.has_arrived() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match operation() {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && started.elapsed() < STALL_TIMEOUT => {}
                result => return result,
            }
        }
    }
}

/// A network may compress zeros.
fn random_bytes() -> io::Result<Vec<u8>> {
    let mut data = vec![0; CHUNK];
    File::open("/dev/urandom")?.read_exact(&mut data)?;
    Ok(data)
}

/// The CPU time of a process so far; none if it cannot be read. proc(5): the fields 14 and 15 of stat
/// are user and system time in ticks. The second field is the name in parentheses.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Some((user + system) as f64 / ticks as f64)
}
