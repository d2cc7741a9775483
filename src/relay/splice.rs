//! A relay between a local socket and a plain TCP socket, in which the kernel moves the data.
//!
//! Bulk data goes from the pages of one socket through a pipe into the queue of the other, and never
//! into this process. Each direction empties its pipe before it fills it again. So it is clear what a
//! splice that would block waits for: filling an empty pipe can only wait for the source, emptying a
//! full one only for the destination.
//!
//! On clear TCP a process that dies would end its connections like one that has finished. Hence
//! [`reset_on_close`]: until a stream has ended both ways, every close of its socket sends RST
//! instead of FIN.

use super::local::Next;
use super::pipe::{FLAGS, Pipe, SMALL};
use super::{Counters, DRAIN_TIMEOUT, Local, Progress, RelayError, is_refusal, until_both_ended};
use crate::system::readiness::unacknowledged;
use nix::fcntl::{SpliceFFlags, splice as move_pages};
use socket2::SockRef;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Requested size of a pipe, in bytes: the most that every process may request by default
/// (`/proc/sys/fs/pipe-max-size`). If the kernel grants less, less data moves at once.
const PIPE: usize = 1 << 20;

/// First interval between two checks that everything has been acknowledged, which the kernel does not
/// notify about. Each interval is twice as long as the one before.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// The longest such interval.
const MAX_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Makes every close of the socket an error at the peer: RST instead of FIN, also when this process
/// is killed. To be called as soon as the socket is connected.
pub fn reset_on_close(tcp: &TcpStream) -> io::Result<()> {
    SockRef::from(tcp).set_linger(Some(Duration::ZERO))
}

/// Makes a close of the socket orderly again: sent data is delivered first, then FIN.
pub fn finish_on_close(tcp: &impl AsFd) -> io::Result<()> {
    SockRef::from(tcp).set_linger(None)
}

/// Moves data both ways until both directions have ended, as [`relay`](super::relay()) does on a
/// connection with half-close. Here the end of a direction is FIN.
///
/// The caller has called [`reset_on_close`]. It is undone when both directions have ended well and the
/// other node's kernel has acknowledged everything. After an error the caller drops the socket
/// unchanged. An end by RST is [`RelayError::Truncated`].
///
/// Splicing to a peer that is gone raises SIGPIPE, and no flag prevents it. The caller has to ignore the
/// signal, as Rust programs do, or block it, as the C ABI does.
pub async fn splice(local: &Local, tcp: &TcpStream, counters: &Counters) -> Result<(), RelayError> {
    // Small pieces are sent at once, whether or not the last one was acknowledged.
    tcp.set_nodelay(true).map_err(RelayError::Send)?;
    let progress = Progress::default();
    let up = async {
        let result = send_all(local, tcp, counters, &progress).await;
        progress.failed.store(result.is_err(), Ordering::Relaxed);
        result
    };
    let down = receive_all(local, tcp, counters, &progress);
    match until_both_ended(up, down, broken(tcp)).await {
        Ok(()) => {
            acknowledged(tcp).await?;
            finish_on_close(tcp).map_err(RelayError::Send)
        }
        Err(RelayError::Undelivered) => {
            // Closing would discard data that is not acknowledged yet. The local program's last data
            // should arrive.
            let _ = timeout(DRAIN_TIMEOUT, acknowledged(tcp)).await;
            Err(RelayError::Undelivered)
        }
        Err(error) => Err(error),
    }
}

async fn send_all(
    local: &Local,
    tcp: &TcpStream,
    counters: &Counters,
    progress: &Progress,
) -> Result<(), RelayError> {
    let mut buffer = vec![0; SMALL];
    let mut pipe = None;
    let sent = |count| {
        counters.sent.fetch_add(count as u64, Ordering::Relaxed);
    };
    loop {
        match local
            .read_small(&mut buffer)
            .await
            .map_err(RelayError::Local)?
        {
            Next::Read(0) => break,
            Next::Read(count) => {
                let mut rest = &buffer[..count];
                while !rest.is_empty() {
                    let count = write(tcp, rest).await.map_err(RelayError::Send)?;
                    rest = &rest[count..];
                    sent(count);
                }
            }
            Next::Large(fresh) => {
                let pipe = made(&mut pipe)?;
                let mut held = local
                    .splice_to(&pipe.entry, fresh.min(PIPE))
                    .await
                    .map_err(RelayError::Local)?;
                while held > 0 {
                    let count = splice_to(tcp, pipe, held).await.map_err(RelayError::Send)?;
                    held -= count;
                    sent(count);
                }
            }
        }
    }
    progress.may_finish(local)?;
    SockRef::from(tcp)
        .shutdown(Shutdown::Write)
        .map_err(RelayError::Send)
}

async fn receive_all(
    local: &Local,
    tcp: &TcpStream,
    counters: &Counters,
    progress: &Progress,
) -> Result<(), RelayError> {
    let mut pipe = None;
    loop {
        tcp.readable().await.map_err(received)?;
        let pipe = made(&mut pipe)?;
        let mut held = splice_from(tcp, pipe).await.map_err(received)?;
        if held == 0 {
            break;
        }
        while held > 0 {
            match local.splice_from(&pipe.exit, held).await {
                Ok(count) => {
                    held -= count;
                    counters.received.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if !is_refusal(&error) => return Err(RelayError::Local(error)),
                Err(_) => return drop_all(local, tcp, progress).await,
            }
        }
    }
    end(local, progress)
}

/// Drops data for a program that has shut down its reading side, so that it does not delay the data
/// that the program still writes.
async fn drop_all(local: &Local, tcp: &TcpStream, progress: &Progress) -> Result<(), RelayError> {
    let mut buffer = vec![0; SMALL];
    loop {
        progress.refused(local)?;
        let read = || tcp.try_read(&mut buffer);
        match tcp.async_io(Interest::READABLE, read).await {
            Ok(0) => return end(local, progress),
            Ok(_) => {}
            Err(error) => return Err(received(error)),
        }
    }
}

/// Ends the local program's stream in the same way as the connection's.
fn end(local: &Local, progress: &Progress) -> Result<(), RelayError> {
    // The kernel reports a reset once, and from then on an end of stream.
    if progress.failed.load(Ordering::Relaxed) {
        return Err(RelayError::Truncated);
    }
    local.finish();
    Ok(())
}

/// Completes when the connection is broken, after the peer has ended its direction.
async fn broken(tcp: &TcpStream) -> RelayError {
    let waited = tcp.ready(Interest::ERROR).await;
    match waited.and_then(|_| tcp.take_error()) {
        Ok(Some(error)) | Err(error) => RelayError::Send(error),
        Ok(None) => RelayError::Truncated,
    }
}

/// Waits until the peer's kernel has acknowledged everything, including the end of stream.
async fn acknowledged(tcp: &TcpStream) -> Result<(), RelayError> {
    let broken = broken(tcp);
    tokio::pin!(broken);
    let mut pause = MIN_CHECK_INTERVAL;
    while unacknowledged(tcp).map_err(RelayError::Send)? > 0 {
        if let Ok(error) = timeout(pause, &mut broken).await {
            return Err(error);
        }
        pause = (2 * pause).min(MAX_CHECK_INTERVAL);
    }
    Ok(())
}

fn received(error: io::Error) -> RelayError {
    match error.kind() {
        io::ErrorKind::ConnectionReset => RelayError::Truncated,
        _ => RelayError::Receive(error),
    }
}

/// The pipe of a direction, created on first use: many connections send nothing in one direction. It
/// holds data only while it is being moved.
fn made(pipe: &mut Option<Pipe>) -> Result<&Pipe, RelayError> {
    let made = match pipe.take() {
        Some(pipe) => pipe,
        None => Pipe::new(PIPE).map_err(RelayError::Pipe)?,
    };
    Ok(pipe.insert(made))
}

/// Sends some of `bytes`, and returns how many.
async fn write(tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let write = || tcp.try_write(bytes);
    tcp.async_io(Interest::WRITABLE, write).await
}

/// Sends some of the `count` bytes that a pipe holds, and returns how many. More data always follows,
/// because bulk data leaves its last byte in the local queue.
async fn splice_to(tcp: &TcpStream, pipe: &Pipe, count: usize) -> io::Result<usize> {
    let flags = FLAGS | SpliceFFlags::SPLICE_F_MORE;
    let splice = || Ok(move_pages(&pipe.exit, None, tcp, None, count, flags)?);
    tcp.async_io(Interest::WRITABLE, splice).await
}

/// Receives into an empty pipe, and returns how many bytes; zero at the end of the stream.
async fn splice_from(tcp: &TcpStream, pipe: &Pipe) -> io::Result<usize> {
    let splice = || Ok(move_pages(tcp, None, &pipe.entry, None, PIPE, FLAGS)?);
    tcp.async_io(Interest::READABLE, splice).await
}
