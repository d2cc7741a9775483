//! A connection through a tunnel, and the CPU time that the tunnel spends on it.

use crate::affinity::Side;
use crate::load::{self, Fill};
use crate::measure::{Clocks, Sample, rate};
use crate::tunnel::{Ends, Tunnel};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use testing::link::Link;

pub struct Connection {
    pub ends: Ends,
    clocks: Clocks,
    tunnel: Box<dyn Tunnel>,
}

impl Connection {
    pub fn through(tunnel: impl Tunnel + 'static) -> Self {
        let mut tunnel: Box<dyn Tunnel> = Box::new(tunnel);
        Self {
            ends: tunnel.connect(),
            clocks: Clocks::new(tunnel.processes()),
            tunnel,
        }
    }

    /// Moves `bytes` from the source to the sink. The sample's value is in MB/s.
    pub fn transfer(&self, bytes: u64) -> Sample {
        self.transfer_of(Fill::Data, bytes)
    }

    /// The same, with this content.
    pub fn transfer_of(&self, fill: Fill, bytes: u64) -> Sample {
        let Ends { source, sink } = &self.ends;
        load::measured_transfer(fill, source, sink, bytes, &self.clocks)
    }

    /// Moves `bytes` that the tunnel's first process creates and its last process drops. The source
    /// only sends the number of bytes; the sink only receives one byte when all of them have
    /// arrived. The sample's value is in MB/s.
    pub fn transfer_inside(&self, bytes: u64) -> Sample {
        let (time, cpu) = self.clocks.cost(bytes, || {
            let started = Instant::now();
            (&self.ends.source).write_all(&bytes.to_le_bytes()).unwrap();
            (&self.ends.sink).read_exact(&mut [0]).unwrap();
            started.elapsed()
        });
        let value = rate(bytes, time);
        Sample { value, cpu }
    }

    /// Pins the tunnel's first process to the source's core, all others to the target's core.
    pub fn pin_processes(&self) {
        for (index, (_, pid)) in self.tunnel.processes().into_iter().enumerate() {
            let side = if index == 0 {
                Side::Source
            } else {
                Side::Target
            };
            side.pin_process(pid);
        }
    }
}

/// The rate of one new connection over a link that is idle before, in MB/s, after the first part of the
/// time. `clocks` are those of the tunnel.
pub fn transfer_over(
    link: &Link,
    tunnel: &mut dyn Tunnel,
    clocks: &Clocks,
    start: Duration,
    time: Duration,
) -> Sample {
    transfer_over_with(link, tunnel, clocks, start, time, || ())
}

/// The same. `event` is called after the first part of the time, and its result is dropped at the end
/// of the time.
pub fn transfer_over_with<T>(
    link: &Link,
    tunnel: &mut dyn Tunnel,
    clocks: &Clocks,
    start: Duration,
    time: Duration,
    event: impl FnOnce() -> T,
) -> Sample {
    link.wait_until_idle();
    let Ends { source, sink } = tunnel.connect();
    let connection = [(source, sink)];
    let (arrived, cpu) = clocks.cost_by(
        || load::transfer_for_with(&connection, start, time, event),
        |arrived| arrived.bytes,
    );
    let value = arrived.rate;
    Sample { value, cpu }
}
