//! A process publishes its state.

use super::{EXTENSION, MAX_LINE, SERVE_TIMEOUT, Tunnel, TunnelState};
use crate::publication::read::{is_abandoned, sockets};
use crate::system::run_directory;
use nix::unistd::geteuid;
use ring::rand::{SecureRandom, SystemRandom};
use std::convert::Infallible;
use std::fs::{Permissions, remove_file, rename, set_permissions};
use std::future::pending;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

/// Pause after an error of accept(2): the process may be short of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The socket of a process. Its name is removed when it is dropped.
pub(crate) struct Publication {
    socket: UnixListener,
    path: PathBuf,
    since: u64,
    started: Instant,
}

impl Drop for Publication {
    fn drop(&mut self) {
        // A failure leaves a socket that refuses connections, as SIGKILL does.
        let _ = remove_file(&self.path);
    }
}

impl Publication {
    /// Begins to publish, and removes the sockets of killed processes. None if this process may not
    /// use the directory, because it does not belong to root.
    pub(crate) fn open(directory: &Path) -> io::Result<Option<Self>> {
        match Self::open_in(directory) {
            Err(error) if run_directory::is_denied(&error) => Ok(None),
            result => result.map(Some),
        }
    }

    fn open_in(directory: &Path) -> io::Result<Self> {
        run_directory::create(directory)?;
        for abandoned in sockets(directory)?.iter().filter(|path| is_abandoned(path)) {
            // Another process may remove it too.
            let _ = remove_file(abandoned);
        }
        let mut random = [0; 4];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| io::Error::other("no random numbers"))?;
        // Process IDs alone are not unique if several PID namespaces use the directory.
        let name = format!("{}-{:08x}", std::process::id(), u32::from_ne_bytes(random));
        let new = directory.join(format!("{name}.new"));
        let path = directory.join(format!("{name}.{EXTENSION}"));
        // It gets its name after it listens: a name that refuses connections is an abandoned one.
        let socket = StdUnixListener::bind(&new)?;
        let named = set_permissions(&new, Permissions::from_mode(0o600))
            .and_then(|()| socket.set_nonblocking(true))
            .and_then(|()| UnixListener::from_std(socket))
            .and_then(|socket| rename(&new, &path).map(|()| socket));
        if named.is_err() {
            let _ = remove_file(&new);
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Self {
            socket: named?,
            path,
            since: since.unwrap_or_default().as_secs(),
            started: Instant::now(),
        })
    }

    fn line(&self, state: TunnelState) -> io::Result<Vec<u8>> {
        let tunnel = Tunnel {
            pid: std::process::id(),
            since: self.since,
            seconds: (self.started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
            state,
        };
        let mut line = serde_json::to_vec(&tunnel)?;
        line.push(b'\n');
        match line.len() {
            0..=MAX_LINE => Ok(line),
            length => Err(io::Error::other(format!("a line of {length} bytes"))),
        }
    }
}

/// Answers each connection, one after the other, until the task is cancelled.
pub(crate) async fn serve(
    publication: Option<&Publication>,
    state: impl Fn() -> TunnelState,
) -> Infallible {
    let Some(publication) = publication else {
        return pending().await;
    };
    loop {
        match publication.socket.accept().await {
            Ok((connection, _)) if may_read(&connection) => {
                if let Ok(line) = publication.line(state()) {
                    // Ignored if the reader is gone.
                    let _ = timeout(SERVE_TIMEOUT, write(connection, &line)).await;
                }
            }
            Ok(_) => {}
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Root, and the user of this process, whatever the modes of directory and socket allow.
fn may_read(connection: &UnixStream) -> bool {
    let reader = connection.peer_cred().map(|reader| reader.uid());
    reader.is_ok_and(|reader| reader == 0 || reader == geteuid().as_raw())
}

async fn write(mut connection: UnixStream, line: &[u8]) -> io::Result<()> {
    connection.write_all(line).await?;
    connection.shutdown().await
}
