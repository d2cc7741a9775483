//! A client and a server with a TCP connection between them.

use super::process::Process;
use crate::tunnel::{Ends, Tunnel};
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use testing::wait_until;

/// Far longer than any step of a benchmark takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Processes that carry bytes from the UNIX socket of the source to that of the sink.
pub struct Pair {
    addresses: Addresses,
    sink: UnixListener,
    processes: Vec<(&'static str, Process)>,
}

impl Pair {
    /// Calls `start` to start the processes, with addresses that nothing else uses.
    pub fn new(start: impl FnOnce(&Addresses) -> Vec<(&'static str, Process)>) -> Self {
        let addresses = Addresses::new();
        let sink = UnixListener::bind(addresses.sink()).unwrap();
        let processes = start(&addresses);
        Self {
            addresses,
            sink,
            processes,
        }
    }
}

impl Tunnel for Pair {
    fn connect(&mut self) -> Ends {
        let path = self.addresses.source();
        let mut source = None;
        wait_until("the peer accepts connections", || {
            source = UnixStream::connect(&path).ok();
            source.is_some()
        });
        let source = source.unwrap();
        let (sink, _) = self.sink.accept().unwrap();
        for stream in [&source, &sink] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_write_timeout(Some(LIMIT)).unwrap();
        }
        Ends { source, sink }
    }

    fn processes(&self) -> Vec<(&str, u32)> {
        let processes = self.processes.iter();
        processes
            .map(|(name, process)| (*name, process.pid()))
            .collect()
    }
}

/// The addresses of a pair: two UNIX sockets, and a port of the loopback address.
pub struct Addresses {
    directory: TempDir,
    pub port: u16,
}

impl Addresses {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            directory: tempfile::tempdir().unwrap(),
            port: listener.local_addr().unwrap().port(),
        }
    }

    /// The socket to which the source connects.
    pub fn source(&self) -> PathBuf {
        self.file("source")
    }

    /// The socket on which the sink listens.
    pub fn sink(&self) -> PathBuf {
        self.file("sink")
    }

    /// A file in the pair's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the server, waits until it listens on the port, then starts the client. Returns both,
    /// the client first.
    pub fn start(
        &self,
        client: (&'static str, &Command),
        server: (&'static str, &Command),
    ) -> Vec<(&'static str, Process)> {
        let server = (server.0, Process::start(server.1));
        self.wait_until_listening();
        vec![(client.0, Process::start(client.1)), server]
    }

    /// Looks at the kernel's table of sockets: some servers accept one connection only, so a test
    /// connection would use it up.
    fn wait_until_listening(&self) {
        let entry = format!(" 0100007F:{:04X} 00000000:0000 0A ", self.port);
        wait_until("the peer listens", || {
            fs::read_to_string("/proc/thread-self/net/tcp")
                .unwrap()
                .contains(&entry)
        });
    }
}
