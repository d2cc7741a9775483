//! The connections of a bare program.

use serde_json::Value;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use testing::role;

/// The most that is read or written at a time, in bytes, as in pve-tunnel.
pub const CHUNK: usize = 128 << 10;

/// The options of this process. Each socket carries one connection.
pub struct Endpoints(Value);

impl Endpoints {
    /// From the options of this process's role.
    pub fn from_role() -> Self {
        Self(role::options().unwrap())
    }

    /// Accepts the connection of the source.
    pub fn source(&self) -> UnixStream {
        let listener = UnixListener::bind(self.text("source")).unwrap();
        listener.accept().unwrap().0
    }

    /// Connects to the sink.
    pub fn sink(&self) -> UnixStream {
        UnixStream::connect(self.text("sink")).unwrap()
    }

    /// The TCP connection, as client.
    pub fn connect(&self) -> TcpStream {
        without_delay(TcpStream::connect(self.address()).unwrap())
    }

    /// The TCP connection, as server.
    pub fn accept(&self) -> TcpStream {
        let listener = TcpListener::bind(self.address()).unwrap();
        without_delay(listener.accept().unwrap().0)
    }

    pub fn text(&self, option: &str) -> &str {
        self.0[option].as_str().unwrap()
    }

    pub fn is_set(&self, option: &str) -> bool {
        self.0[option] == true
    }

    fn address(&self) -> (Ipv4Addr, u16) {
        let port = self.0["port"].as_u64().unwrap();
        (Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap())
    }
}

fn without_delay(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream
}
