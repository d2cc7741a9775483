//! Paths from a source to a sink, and what moving bytes on them costs.

use crate::cores;
use crate::load;
use crate::measure::{Clocks, Sample, rate};
use crate::peer::node::{Front, Node};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;
use testing::role;
use testing::seam::{Crossing, Seam, wish};

/// The processes of ours.
pub const CONNECTOR: &str = "connector";
pub const LISTENER: &str = "listener";

/// Processes between UNIX sockets.
pub trait Tunnel {
    /// A fresh connection through it: the source's end, which connected, and the sink's.
    fn pair(&mut self) -> (UnixStream, UnixStream);
    /// All that bytes pass, by name.
    fn processes(&self) -> Vec<(&str, u32)>;
}

/// One connection through a tunnel.
pub struct Path {
    pub source: UnixStream,
    pub sink: UnixStream,
    clocks: Clocks,
    tunnel: Box<dyn Tunnel>,
}

impl Path {
    pub fn through(tunnel: impl Tunnel + 'static) -> Self {
        let mut tunnel: Box<dyn Tunnel> = Box::new(tunnel);
        let (source, sink) = tunnel.pair();
        Self {
            source,
            sink,
            clocks: Clocks::new(tunnel.processes()),
            tunnel,
        }
    }

    /// Moves so many bytes: megabytes a second.
    pub fn stream(&self, bytes: u64) -> Sample {
        load::turn(&self.source, &self.sink, bytes, &self.clocks)
    }

    /// The first process is the source's, the others are the target's.
    pub fn give_each_node_a_core(&self) {
        for (index, (_, process)) in self.tunnel.processes().into_iter().enumerate() {
            let node = if index == 0 {
                cores::Node::Source
            } else {
                cores::Node::Target
            };
            node.own(process);
        }
    }

    /// The same, where they are made and dropped inside the tunnel.
    pub fn demand(&self, bytes: u64) -> Sample {
        let (time, cpu) = self.clocks.cost(bytes, || {
            let started = Instant::now();
            (&self.source).write_all(&bytes.to_le_bytes()).unwrap();
            (&self.sink).read_exact(&mut [0]).unwrap();
            started.elapsed()
        });
        let value = rate(bytes, time);
        Sample { value, cpu }
    }
}

/// A connector and what it is connected to on that plane: a listener of ours, on `websocket` the test
/// node.
pub fn ours(plane: &str) -> Result<Box<dyn Tunnel>, String> {
    match plane {
        "websocket" => Ok(Box::new(Node::start(Front::TestNode)?)),
        _ => Ok(Box::new(direct(plane))),
    }
}

/// A connector and a listener on a direct plane.
pub fn direct(plane: &str) -> Crossing {
    let kind = match plane {
        "tls" => "secure",
        _ => "insecure",
    };
    Crossing::on(plane, Seam::starting(role::listeners()), &wish(kind))
}

impl Tunnel for Crossing {
    fn pair(&mut self) -> (UnixStream, UnixStream) {
        self.pair()
    }

    fn processes(&self) -> Vec<(&str, u32)> {
        vec![
            (CONNECTOR, self.connector.child.id()),
            (LISTENER, self.seam.listener_pid()),
        ]
    }
}

impl Tunnel for Node {
    fn pair(&mut self) -> (UnixStream, UnixStream) {
        let ends = self.connection();
        (ends.source, ends.target)
    }

    fn processes(&self) -> Vec<(&str, u32)> {
        vec![(CONNECTOR, self.connector()), ("test node", self.pid())]
    }
}

impl Tunnel for Box<dyn Tunnel> {
    fn pair(&mut self) -> (UnixStream, UnixStream) {
        (**self).pair()
    }

    fn processes(&self) -> Vec<(&str, u32)> {
        (**self).processes()
    }
}
