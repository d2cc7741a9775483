//! websocat, which can replace the connector: it connects a UNIX socket to a websocket.

use super::process::Process;
use crate::project;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use testing::wait_until;

/// The size of a message, in bytes: pveproxy's limit, and the size at which pveproxy is fastest.
const MESSAGE: &str = "131072";

pub struct Websocat {
    process: Process,
}

/// The program's path: in PATH, or where `make bench-peers` installs it.
pub fn program() -> Result<PathBuf, String> {
    let own = project::path("target/bench/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([own])
        .map(|directory| directory.join("websocat"))
        .find(|file| file.is_file())
        .ok_or_else(|| "websocat is not installed: run make bench-peers".to_owned())
}

impl Websocat {
    /// Starts websocat. It accepts connections at `local` and forwards them to `url`.
    pub fn start(program: &Path, local: &Path, url: &str, token: &str) -> Self {
        let mut command = Command::new(program);
        command
            .args([
                "--binary",
                "--insecure",
                "--exit-on-eof",
                "--buffer-size",
                MESSAGE,
            ])
            .arg(format!("--header=Authorization: {token}"))
            .arg(format!("unix-listen:{}", local.display()))
            .arg(url);
        Self {
            process: Process::start(&command),
        }
    }

    /// Connects to it as soon as it listens.
    pub fn connect(&self, local: &Path) -> UnixStream {
        let mut stream = None;
        wait_until("websocat listens", || {
            stream = UnixStream::connect(local).ok();
            stream.is_some()
        });
        stream.unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}
