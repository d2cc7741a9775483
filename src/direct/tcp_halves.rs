//! A clear TCP connection as the two halves of a lane.

use crate::relay::{Incoming, Outgoing, Pieces, Received};
use std::future::pending;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes that are read or written at once.
const BUFFER: usize = 128 << 10;

/// Splits a connection.
pub(super) fn split(stream: TcpStream) -> (TcpOutgoing, TcpIncoming) {
    let (read, write) = stream.into_split();
    let buffer = vec![0; BUFFER];
    (TcpOutgoing { write }, TcpIncoming { read, buffer })
}

/// The half that sends.
pub(super) struct TcpOutgoing {
    write: OwnedWriteHalf,
}

impl Outgoing for TcpOutgoing {
    const ROOM: usize = 0;
    const MAX: usize = BUFFER;

    async fn send(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.write.write_all(buffer).await
    }

    async fn control_pending(&mut self) {
        pending().await
    }

    async fn send_control(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.write.shutdown().await
    }
}

/// The half that receives.
pub(super) struct TcpIncoming {
    read: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Incoming for TcpIncoming {
    const HALF_CLOSE: bool = true;

    async fn next(&mut self) -> io::Result<Received<'_>> {
        match self.read.read(&mut self.buffer).await? {
            0 => Ok(Received::End),
            count => Ok(Received::Data(Pieces::One(&self.buffer[..count]))),
        }
    }
}
