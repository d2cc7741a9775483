//! How fast a plane is: data to and from the meter of the target, over a forward.

use super::interrupt::Interrupt;
use super::rate::{Rate, Sample};
use super::route::Route;
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

/// For an answer of the meter, and for its data: longer than the queues of a long path take to move.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The target's limit of a measurement, after which its meter reads no more.
const METER_LIMIT: Duration = Duration::from_secs(30);

/// For the end of a measurement, after the time limit of the meter: data in queues, which a slow path may take
/// minutes to carry, must not delay the check.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two samples of what arrives.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

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
    /// The connections that carried the data together; null if lanes are not configured.
    pub(crate) lanes: Option<u16>,
    /// The direction.
    pub(crate) direction: Direction,
    /// Bytes that arrived.
    pub(crate) bytes: u64,
    /// From the first byte to the end.
    pub(crate) seconds: f64,
    /// MB/s, 10^6 bytes, without the start of TCP: what a migration would reach.
    pub(crate) rate: f64,
    /// The start of TCP was not over, so that a longer measurement shows a higher rate.
    #[serde(skip)]
    pub(super) is_growing: bool,
    /// CPU seconds of this node's connector for a GiB; null if they cannot be read.
    pub(crate) source_cpu: Option<f64>,
    /// CPU seconds of the target's process, the listener or a pveproxy, for a GiB; null if there are both.
    pub(crate) target_cpu: Option<f64>,
}

/// Where and how long to measure.
pub(super) struct Meter<'a> {
    /// The local socket of the forward.
    pub(super) socket: &'a Path,
    pub(super) route: Route,
    pub(super) lanes: Option<u16>,
    pub(super) seconds: f64,
    /// The connector, whose CPU time counts.
    pub(super) connector: u32,
    pub(super) interrupt: &'a Interrupt,
}

/// What arrived.
struct Arrival {
    bytes: u64,
    /// From the first byte to the end.
    seconds: f64,
    samples: Vec<Sample>,
}

/// Bytes below which a measurement says little: TCP takes that many to find out how the path behaves. With loss, its
/// rate is often a hundred times as high after some seconds.
const LITTLE: u64 = 8 << 20;

impl Measurement {
    /// Only little has arrived.
    pub(super) fn is_little(&self) -> bool {
        self.bytes < LITTLE
    }

    /// A longer measurement may show a higher rate.
    pub(super) fn is_early(&self) -> bool {
        self.is_growing || self.is_little()
    }
}

impl Meter<'_> {
    pub(super) fn measure(&self, direction: Direction) -> io::Result<Measurement> {
        let cpu = cpu_seconds(self.connector);
        let (arrival, report) = match direction {
            Direction::Sent => {
                let seconds = self.send()?;
                let report = self.report()?;
                // Data on its way at the end was sent, and did not arrive.
                let bytes = report.get("bytes").and_then(Value::as_u64).unwrap_or(0);
                let samples = samples(&report);
                let arrival = Arrival {
                    bytes,
                    seconds,
                    samples,
                };
                (arrival, report)
            }
            Direction::Received => (self.receive()?, self.report()?),
        };
        let cpu = cpu_seconds(self.connector).zip(cpu);
        let (bytes, seconds) = (arrival.bytes, arrival.seconds);
        if bytes == 0 {
            return Err(io::Error::other("no data arrived"));
        }
        let per_gib = |seconds: f64| seconds / (bytes as f64 / GIB);
        // Without samples that show one, the whole time counts.
        let rate = Rate::of(&arrival.samples, self.seconds).unwrap_or(Rate {
            bytes_per_second: bytes as f64 / seconds.max(1e-6),
            is_growing: false,
        });
        Ok(Measurement {
            plane: self.route.plane.name().to_owned(),
            lanes: self.lanes,
            direction,
            bytes,
            seconds,
            rate: rate.bytes_per_second / 1e6,
            is_growing: rate.is_growing,
            source_cpu: cpu.map(|(now, before)| per_gib(now - before)),
            target_cpu: match self.route.is_lanes_through_api() {
                // The meter observes the listener only, and pveproxy does most of the work.
                true => None,
                false => report.get("cpu").and_then(Value::as_f64).map(per_gib),
            },
        })
    }

    /// Sends for the time, then waits until the meter has read everything, or does not read any more. Returns the
    /// seconds of both.
    fn send(&self) -> io::Result<f64> {
        let mut stream = self.open(&json!({ "op": "discard", "acknowledge": true }))?;
        // The connection takes several round trips, in which buffers on this node would accept data.
        self.read_line(&mut stream)?;
        let data = random_bytes()?;
        let started = Instant::now();
        let time = Duration::from_secs_f64(self.seconds);
        loop {
            match self.wait_within(time.saturating_sub(started.elapsed()), || {
                stream.write(&data)
            }) {
                // What is in queues can take longer than the time. Whether it arrives is in the report.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                Err(error) => return Err(error),
                Ok(_) if started.elapsed() >= time => break,
                Ok(_) => {}
            }
        }
        stream.shutdown(Shutdown::Write)?;
        let limit = (METER_LIMIT + END_TIMEOUT).saturating_sub(started.elapsed());
        match self.wait_within(limit, || stream.read(&mut [0])) {
            Ok(1..) => Err(io::Error::other("the meter sent data")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            // The meter closes the connection at its limit even if data is still on its way. Its report has what
            // arrived, and there is none if the meter cannot be reached any more.
            Ok(0) | Err(_) => Ok(started.elapsed().as_secs_f64()),
        }
    }

    /// Receives until the meter has ended the connection, or until the time for that is over: the rest is in queues.
    fn receive(&self) -> io::Result<Arrival> {
        let mut stream = self.open(&json!({ "op": "send", "seconds": self.seconds }))?;
        let mut data = vec![0; CHUNK];
        let mut bytes = self.wait(|| stream.read(&mut data))? as u64;
        let started = Instant::now();
        let mut samples = vec![Sample {
            seconds: 0.0,
            bytes,
        }];
        let mut sampled = started;
        let limit = Duration::from_secs_f64(self.seconds) + END_TIMEOUT;
        while started.elapsed() < limit {
            match self.wait(|| stream.read(&mut data))? {
                0 => break,
                count => bytes += count as u64,
            }
            if sampled.elapsed() >= SAMPLE_INTERVAL {
                sampled = Instant::now();
                let seconds = (sampled - started).as_secs_f64();
                samples.push(Sample { seconds, bytes });
            }
        }
        Ok(Arrival {
            bytes,
            seconds: started.elapsed().as_secs_f64(),
            samples,
        })
    }

    fn report(&self) -> io::Result<Value> {
        let mut stream = self.open(&json!({ "op": "report" }))?;
        Ok(serde_json::from_slice(&self.read_line(&mut stream)?)?)
    }

    /// The first line that the meter sends, and nothing else: it sends one line on a connection.
    fn read_line(&self, stream: &mut UnixStream) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut data = [0; MAX_REPORT];
        while !line.contains(&b'\n') && line.len() < MAX_REPORT {
            match self.wait(|| stream.read(&mut data))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => line.extend_from_slice(&data[..count]),
            }
        }
        Ok(line)
    }

    fn open(&self, request: &Value) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(self.socket)?;
        stream.set_read_timeout(Some(SLICE))?;
        stream.set_write_timeout(Some(SLICE))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        Ok(stream)
    }

    /// A read or a write, which ends with an error if the check is interrupted, or after [`STALL_TIMEOUT`].
    fn wait<T>(&self, operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.wait_within(STALL_TIMEOUT, operation)
    }

    /// The same with another time limit. The kind of its error is `TimedOut`.
    fn wait_within<T>(
        &self,
        limit: Duration,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let started = Instant::now();
        loop {
            if self.interrupt.has_arrived() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match operation() {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Ok(result) => return Ok(result),
                Err(_) if started.elapsed() < limit => {}
                Err(_) => {
                    let text = format!("no data moved within {} s", limit.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            }
        }
    }
}

/// The samples of a report. Targets whose meter takes none have no such member.
fn samples(report: &Value) -> Vec<Sample> {
    let samples = report.get("samples").and_then(Value::as_array);
    let sample = |sample: &Value| {
        Some(Sample {
            seconds: sample.get(0)?.as_f64()?,
            bytes: sample.get(1)?.as_u64()?,
        })
    };
    samples.into_iter().flatten().filter_map(sample).collect()
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
