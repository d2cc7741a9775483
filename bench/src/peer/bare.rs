//! The least that the work can cost: programs of ours without a hello, counters, an orderly end or
//! a second direction. Each of them is this program again, in a role.

use super::{Peer, Process, Site, bare_tls};
use crate::case::Role;
use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use testing::role;

/// What is read or written at once, as ours does.
pub(super) const CHUNK: usize = 128 << 10;

/// What a pipe holds: the most that a process may ask for by default.
const PIPE: usize = 1 << 20;

pub const ROLES: &[Role] = &[
    ("bare_hop", hop_role),
    ("bare_splice_client", splice_client),
    ("bare_splice_server", splice_server),
    ("bare_tls_client", bare_tls::client),
    ("bare_tls_server", bare_tls::server),
];

/// UNIX socket, rustls, TCP, rustls, UNIX socket.
pub fn tls_pair() -> Peer {
    two("bare_tls", bare_tls::options(false))
}

/// Rustls, TCP, rustls: what goes through is made and dropped inside, on
/// [demand](crate::path::Path::demand).
pub fn tls_inside() -> Peer {
    two("bare_tls", bare_tls::options(true))
}

/// UNIX socket, pipe, TCP, pipe, UNIX socket, all by splice(2).
pub fn splice_pair() -> Peer {
    two("bare_splice", json!({}))
}

/// UNIX socket to UNIX socket: what the two of a pair do besides the network.
pub fn hop() -> Peer {
    Peer::new(|site| vec![start("bare hop", "bare_hop", site, json!({}))])
}

fn two(role: &str, options: Value) -> Peer {
    Peer::new(|site| {
        let start = |name, end: &str| start(name, &format!("{role}_{end}"), site, options.clone());
        let server = start("bare server", "server");
        site.until_listening();
        vec![start("bare client", "client"), server]
    })
}

fn start(name: &'static str, role: &str, site: &Site, mut options: Value) -> Process {
    options["near"] = json!(site.near());
    options["far"] = json!(site.far());
    options["port"] = json!(site.port);
    Process::start(name, &role::command(role, &options))
}

/// Where a role's bytes come from and go to: the one connection on each of its sockets.
pub(super) struct Place(pub(super) Value);

impl Place {
    pub(super) fn mine() -> Self {
        Self(role::options().unwrap())
    }

    pub(super) fn near(&self) -> UnixStream {
        let listener = UnixListener::bind(self.0["near"].as_str().unwrap()).unwrap();
        listener.accept().unwrap().0
    }

    pub(super) fn far(&self) -> UnixStream {
        UnixStream::connect(self.0["far"].as_str().unwrap()).unwrap()
    }

    /// The client's end of the TCP connection.
    pub(super) fn connect(&self) -> TcpStream {
        ready(TcpStream::connect(self.address()).unwrap())
    }

    /// The server's.
    pub(super) fn accept(&self) -> TcpStream {
        let listener = TcpListener::bind(self.address()).unwrap();
        ready(listener.accept().unwrap().0)
    }

    fn address(&self) -> (Ipv4Addr, u16) {
        let port = self.0["port"].as_u64().unwrap();
        (Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap())
    }
}

fn ready(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream
}

fn hop_role() {
    let place = Place::mine();
    let (mut near, mut far) = (place.near(), place.far());
    let mut buffer = vec![0; CHUNK];
    loop {
        match near.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => far.write_all(&buffer[..count]).unwrap(),
        }
    }
}

fn splice_client() {
    let place = Place::mine();
    let near = place.near();
    move_pages(near, place.connect());
}

fn splice_server() {
    let place = Place::mine();
    let wire = place.accept();
    move_pages(wire, place.far());
}

/// Moves all that comes, until either end is gone.
fn move_pages(from: impl AsFd, to: impl AsFd) {
    let (exit, entry) = pipe().unwrap();
    fcntl(&entry, FcntlArg::F_SETPIPE_SZ(PIPE as i32)).unwrap();
    let flags = SpliceFFlags::SPLICE_F_MOVE;
    while let Ok(mut held @ 1..) = splice(&from, None, &entry, None, PIPE, flags) {
        while held > 0 {
            match splice(&exit, None, &to, None, held, flags) {
                Ok(count) => held -= count,
                Err(_) => return,
            }
        }
    }
}
