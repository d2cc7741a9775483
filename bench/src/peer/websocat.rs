//! websocat, which does what the connector does: from a UNIX socket to a websocket.

use crate::project;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use testing::until;

/// How much it takes for one message: what pveproxy takes at most, and the fastest of its sizes.
const MESSAGE: &str = "131072";

pub struct Websocat {
    child: Child,
}

/// Where it is: in PATH, or where `make bench-peers` installs it.
pub fn program() -> Result<PathBuf, String> {
    let own = project::path("target/bench/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([own])
        .map(|directory| directory.join("websocat"))
        .find(|file| file.is_file())
        .ok_or_else(|| "there is no websocat (make bench-peers)".to_owned())
}

impl Websocat {
    /// One that takes connections at `local` to `url`.
    pub fn start(program: &Path, local: &Path, url: &str, token: &str) -> Self {
        // It has no other way to notice that nobody needs it any more.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args([
                "--binary",
                "--insecure",
                "--exit-on-eof",
                "--buffer-size",
                MESSAGE,
            ])
            .arg(format!("--header=Authorization: {token}"))
            .arg(format!("unix-listen:{}", local.display()))
            .arg(url)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Connects to it as soon as it listens.
    pub fn connect(&self, local: &Path) -> UnixStream {
        let mut taken = None;
        until("websocat listens", || {
            taken = UnixStream::connect(local).ok();
            taken.is_some()
        });
        taken.unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Websocat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
