//! Whom ours is compared with: other programs, and the least that the work can cost.

pub mod bare;
mod bare_tls;
pub mod node;
pub mod socat;
pub mod stunnel;
pub mod websocat;

use crate::path::Tunnel;
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use testing::until;

/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Who moves bytes from one UNIX socket to another, and where these are.
pub struct Peer {
    site: Site,
    door: UnixListener,
    processes: Vec<Process>,
}

impl Peer {
    /// Lets `start` start the processes on a fresh site.
    pub fn new(start: impl FnOnce(&Site) -> Vec<Process>) -> Self {
        let site = Site::new();
        let door = UnixListener::bind(site.far()).unwrap();
        let processes = start(&site);
        Self {
            site,
            door,
            processes,
        }
    }
}

impl Tunnel for Peer {
    fn pair(&mut self) -> (UnixStream, UnixStream) {
        let near = self.site.near();
        let mut source = None;
        until("the peer takes connections", || {
            source = UnixStream::connect(&near).ok();
            source.is_some()
        });
        let source = source.unwrap();
        let (sink, _) = self.door.accept().unwrap();
        for stream in [&source, &sink] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.set_write_timeout(Some(LIMIT)).unwrap();
        }
        (source, sink)
    }

    fn processes(&self) -> Vec<(&str, u32)> {
        self.processes
            .iter()
            .map(|process| (process.name, process.child.id()))
            .collect()
    }
}

/// Where a peer works: two UNIX sockets, and a port of the loopback address between them.
pub struct Site {
    directory: TempDir,
    pub port: u16,
}

impl Site {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            directory: tempfile::tempdir().unwrap(),
            port: listener.local_addr().unwrap().port(),
        }
    }

    /// Where the source connects.
    pub fn near(&self) -> PathBuf {
        self.file("near")
    }

    /// Where the sink listens.
    pub fn far(&self) -> PathBuf {
        self.file("far")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits until somebody listens on the port, without connecting: some take one connection only.
    fn until_listening(&self) {
        let entry = format!(" 0100007F:{:04X} 00000000:0000 0A ", self.port);
        until("the peer listens", || {
            fs::read_to_string("/proc/thread-self/net/tcp")
                .unwrap()
                .contains(&entry)
        });
    }
}

/// A process that ends with this one, however that ends.
pub struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    fn start(name: &'static str, command: &Command) -> Self {
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "KILL", "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            tied.env(name, value.unwrap());
        }
        let child = tied.spawn().unwrap();
        Self { name, child }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is, or that it is not installed.
fn installed(program: &str) -> Result<PathBuf, String> {
    ["/usr/bin", "/usr/local/bin", "/bin"]
        .map(|directory| Path::new(directory).join(program))
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| format!("{program} is not installed"))
}
