//! A client and a server with a TCP connection between them.

use super::process::Process;
use crate::tunnel::{Ends, Tunnel};
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use testing::cable::TARGET_ADDRESSES;
use testing::link::Link;
use testing::namespace::NamespaceThread;
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
        Self::at(Addresses::on_loopback(), start)
    }

    /// The same, with the server at the target's end of a link and everything else at the source's.
    pub fn over(
        link: &Link,
        start: impl FnOnce(&Addresses) -> Vec<(&'static str, Process)>,
    ) -> Self {
        Self::at(Addresses::over(link), start)
    }

    fn at(
        addresses: Addresses,
        start: impl FnOnce(&Addresses) -> Vec<(&'static str, Process)>,
    ) -> Self {
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

/// The addresses of a pair: two UNIX sockets, and a port of the server's address.
pub struct Addresses {
    directory: TempDir,
    ip: Ipv4Addr,
    pub port: u16,
    /// The network namespace of the server; none for that of this thread.
    server: Option<NamespaceThread>,
}

impl Addresses {
    fn on_loopback() -> Self {
        Self::new(Ipv4Addr::LOCALHOST, None)
    }

    fn over(link: &Link) -> Self {
        let ip = TARGET_ADDRESSES[0].parse().unwrap();
        Self::new(ip, Some(link.target().clone()))
    }

    fn new(ip: Ipv4Addr, server: Option<NamespaceThread>) -> Self {
        let bind = move || TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
        Self {
            directory: tempfile::tempdir().unwrap(),
            ip,
            port: at_server(server.as_ref(), bind).port(),
            server,
        }
    }

    /// Where the server listens, as `address:port`.
    pub fn endpoint(&self) -> String {
        SocketAddrV4::new(self.ip, self.port).to_string()
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
        client: (&'static str, Command),
        server: (&'static str, Command),
    ) -> Vec<(&'static str, Process)> {
        let (name, command) = server;
        let start = move || Process::start(&command);
        let server = (name, at_server(self.server.as_ref(), start));
        self.wait_until_listening();
        vec![(client.0, Process::start(&client.1)), server]
    }

    /// Looks at the kernel's table of sockets: some servers accept one connection only, so a test
    /// connection would use it up.
    fn wait_until_listening(&self) {
        let ip = u32::from_ne_bytes(self.ip.octets());
        let entry = format!(" {ip:08X}:{:04X} 00000000:0000 0A ", self.port);
        let sockets = || fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        wait_until("the peer listens", || {
            at_server(self.server.as_ref(), sockets).contains(&entry)
        });
    }
}

/// Runs a job in the network namespace of the server.
fn at_server<T: Send + 'static>(
    server: Option<&NamespaceThread>,
    job: impl FnOnce() -> T + Send + 'static,
) -> T {
    match server {
        Some(namespace) => namespace.execute(job),
        None => job(),
    }
}
