//! Reads what the processes of this node publish.

use super::{EXTENSION, MAX_LINE, Tunnel};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::read_dir;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For the answers of all processes that are asked at the same time. Each needs milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Processes that are asked at the same time. Each takes a descriptor.
const AT_ONCE: usize = 256;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// The running tunnels, in the order of their process IDs.
    pub tunnels: Vec<Tunnel>,
    /// The IDs of processes that exist but did not answer in time, or not with a valid line: a
    /// suspended process does not answer.
    pub unanswered: Vec<u32>,
}

/// Reads the tunnels of this node. Takes at most 2 s for 256 of them.
///
/// # Errors
/// The directory cannot be read. A directory that does not exist is an empty one.
pub fn read(directory: &Path) -> io::Result<Published> {
    let sockets = match sockets(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        sockets => sockets?,
    };
    let mut published = Published::default();
    for sockets in sockets.chunks(AT_ONCE) {
        let connections: Vec<_> = sockets
            .iter()
            .map(|path| (process_id(path), connect(path)))
            .collect();
        let deadline = Instant::now() + TIMEOUT;
        for (pid, connection) in connections {
            let answer = match connection {
                // Its process has ended, or it is not a socket.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => continue,
                connection => connection.and_then(|connection| answer(connection, deadline)),
            };
            match (answer, pid) {
                (Ok(tunnel), _) => published.tunnels.push(tunnel),
                (Err(_), Some(pid)) => published.unanswered.push(pid),
                (Err(_), None) => {}
            }
        }
    }
    published.tunnels.sort_by_key(|tunnel| tunnel.pid);
    published.unanswered.sort_unstable();
    Ok(published)
}

/// The sockets in the directory.
pub(super) fn sockets(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut sockets = Vec::new();
    for entry in read_dir(directory)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == EXTENSION)
        {
            sockets.push(path);
        }
    }
    Ok(sockets)
}

/// Whether the process of this socket has ended without removing it.
pub(super) fn is_abandoned(path: &Path) -> bool {
    connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// From the name `4711-….sock`.
fn process_id(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.split('-').next()?.parse().ok()
}

/// Never waits: the queue of a suspended process may be full, which is `WouldBlock`.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(OwnedFd::from(socket).into())
}

fn answer(mut connection: UnixStream, deadline: Instant) -> io::Result<Tunnel> {
    let mut line = Vec::new();
    let mut buffer = [0; MAX_LINE];
    while !line.ends_with(b"\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        // A limit of zero is an error.
        connection.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let count = connection.read(&mut buffer)?;
        line.extend_from_slice(&buffer[..count]);
        if count == 0 || line.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(serde_json::from_slice(&line)?)
}
