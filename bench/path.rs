//! Paths from a source to a sink, and what moving bytes on them costs.

use crate::load;
use crate::measure::{Clocks, Sample, rate};
use crate::support::role;
use crate::support::seam::{Crossing, Seam, wish};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Processes between UNIX sockets.
pub trait Tunnel {
    /// A fresh connection through it: the source's end, which connected, and the sink's.
    fn pair(&mut self) -> (UnixStream, UnixStream);
    /// All that bytes pass, by name.
    fn processes(&self) -> Vec<(&str, u32)>;
}

/// One connection through a tunnel.
pub struct Path<T> {
    pub source: UnixStream,
    pub sink: UnixStream,
    clocks: Clocks,
    _tunnel: T,
}

impl<T: Tunnel> Path<T> {
    pub fn through(mut tunnel: T) -> Self {
        let (source, sink) = tunnel.pair();
        Self {
            source,
            sink,
            clocks: Clocks::new(tunnel.processes()),
            _tunnel: tunnel,
        }
    }

    /// Moves so many bytes: megabytes a second.
    pub fn stream(&self, bytes: u64) -> Sample {
        self.moves(bytes, || load::stream(&self.source, &self.sink, bytes))
    }

    /// The same, where they are made and dropped inside the tunnel.
    pub fn demand(&self, bytes: u64) -> Sample {
        self.moves(bytes, || {
            let started = Instant::now();
            (&self.source).write_all(&bytes.to_le_bytes()).unwrap();
            (&self.sink).read_exact(&mut [0]).unwrap();
            started.elapsed()
        })
    }

    fn moves(&self, bytes: u64, work: impl FnOnce() -> Duration) -> Sample {
        let (time, cpu) = self.clocks.cost(bytes, work);
        Sample {
            cpu,
            ..Sample::of(rate(bytes, time))
        }
    }
}

/// A connector and a listener on a direct plane.
pub struct Direct(Crossing);

impl Direct {
    pub fn on(plane: &str) -> Self {
        let kind = match plane {
            "tls" => "secure",
            _ => "insecure",
        };
        let seam = Seam::starting(role::listeners());
        Self(Crossing::on(plane, seam, &wish(kind)))
    }
}

impl Tunnel for Direct {
    fn pair(&mut self) -> (UnixStream, UnixStream) {
        self.0.pair()
    }

    fn processes(&self) -> Vec<(&str, u32)> {
        let listener = self.0.seam.listener.lock().unwrap();
        vec![
            ("connector", self.0.connector.child.id()),
            ("listener", listener.as_ref().unwrap().pid()),
        ]
    }
}
