//! Programs that only copy or splice.

use super::endpoints::{CHUNK, Endpoints};
use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe;
use std::io::{Read, Write};
use std::os::fd::AsFd;

/// The size of a pipe, in bytes: the most that an unprivileged process may request by default.
const PIPE: usize = 1 << 20;

/// Copies from UNIX socket to UNIX socket.
pub fn hop() {
    let endpoints = Endpoints::from_role();
    let (mut source, mut sink) = (endpoints.source(), endpoints.sink());
    let mut buffer = vec![0; CHUNK];
    loop {
        match source.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => sink.write_all(&buffer[..count]).unwrap(),
        }
    }
}

pub fn splice_client() {
    let endpoints = Endpoints::from_role();
    let source = endpoints.source();
    move_pages(source, endpoints.connect());
}

pub fn splice_server() {
    let endpoints = Endpoints::from_role();
    let connection = endpoints.accept();
    move_pages(connection, endpoints.sink());
}

/// Moves all data until one end is closed.
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
