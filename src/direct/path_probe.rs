//! Whether the network path delivers packets of full size in both directions.
//!
//! Handshake and heartbeat consist of small packets. They pass a switch whose MTU is smaller than
//! that of the nodes, and the stream behind them does not. So the source sends more than one packet
//! of any MTU before it relies on a plane.

use super::key;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{sleep, timeout};

/// Bytes of a probe: three packets of 9000 bytes, the MTU of jumbo frames, and more.
pub(crate) const PROBE: usize = 32 << 10;

/// Time limit of a probe. Eight round trips of a slow path; also the time in which Linux finds a
/// smaller MTU by itself if `net.ipv4.tcp_mtu_probing` is on (three retransmissions).
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval between two checks that everything has been acknowledged.
const CHECK_INTERVAL: Duration = Duration::from_millis(2);

/// Why a probe failed. `advice` is for the operator.
#[derive(Debug, Error)]
pub(crate) enum ProbeError {
    /// The connection ended or broke.
    #[error("the connection failed during the check of the path MTU: {0}")]
    Io(#[from] io::Error),
    /// The listener did not acknowledge the probe.
    #[error(
        "large packets to the target are lost, although small ones arrive: {PROBE} bytes were not acknowledged within {limit:?}; {advice}"
    )]
    Outgoing { limit: Duration, advice: String },
    /// The listener's answer did not arrive.
    #[error(
        "large packets from the target are lost, although small ones arrive: its answer of {PROBE} bytes was not received within {limit:?}; {advice}"
    )]
    Incoming { limit: Duration, advice: String },
}

/// How far a probe came within its time limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It arrived, and so did its answer.
    Complete,
    /// It was not acknowledged.
    Unacknowledged,
    /// It was acknowledged, and the answer did not arrive.
    Unanswered,
}

/// Sends a probe. Waits until TCP has acknowledged it, which every listener's kernel does. If the
/// listener `echoes` the heartbeat, also waits for as many bytes; an older listener answers with less.
/// The bytes are random, so that nothing on the path can compress them.
pub(super) async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    unacknowledged: impl Fn() -> io::Result<usize>,
    echoes: bool,
    limit: Duration,
) -> io::Result<Outcome> {
    let mut probe = vec![0; PROBE];
    key::random(&mut probe)?;
    let (mut read, mut write) = split(stream);
    let acknowledged = AtomicBool::new(false);
    let send = async {
        write.write_all(&probe).await?;
        write.flush().await?;
        while unacknowledged()? > 0 {
            sleep(CHECK_INTERVAL).await;
        }
        acknowledged.store(true, Ordering::Relaxed);
        Ok::<_, io::Error>(())
    };
    // Reads in any case: a listener that cannot send its answer stops reading.
    let receive = async {
        let mut buffer = [0; 4096];
        let mut received = 0;
        while !echoes || received < PROBE {
            match read.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => received += count,
            }
        }
        Ok(())
    };
    let both = async {
        tokio::pin!(send, receive);
        if echoes {
            return tokio::try_join!(send, receive).map(drop);
        }
        tokio::select! {
            sent = send => sent,
            failed = receive => failed,
        }
    };
    match timeout(limit, both).await {
        Ok(result) => result.map(|()| Outcome::Complete),
        Err(_) if acknowledged.load(Ordering::Relaxed) => Ok(Outcome::Unanswered),
        Err(_) => Ok(Outcome::Unacknowledged),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::duplex;

    const LIMIT: Duration = Duration::from_millis(300);

    async fn outcome(echoes: bool, unacknowledged: usize, answer: usize) -> io::Result<Outcome> {
        let (source, mut listener) = duplex(1000);
        let peer = async {
            let mut probe = vec![0; PROBE];
            listener.read_exact(&mut probe).await.unwrap();
            assert!(probe.chunks(256).any(|chunk| chunk != &probe[..256]));
            listener.write_all(&probe[..answer]).await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            outcome = run(source, || Ok(unacknowledged), echoes, LIMIT) => outcome,
            () = peer => unreachable!(),
        }
    }

    #[tokio::test]
    async fn each_direction_is_checked() {
        for (echoes, unacknowledged, answer, expected) in [
            (true, 0, PROBE, Outcome::Complete),
            (true, 0, PROBE - 1, Outcome::Unanswered),
            (true, 1, PROBE, Outcome::Unacknowledged),
            // A listener that answers with less than it received.
            (false, 0, 2048, Outcome::Complete),
            (false, 0, 0, Outcome::Complete),
            (false, 1, 2048, Outcome::Unacknowledged),
        ] {
            let outcome = outcome(echoes, unacknowledged, answer).await.unwrap();
            assert_eq!(outcome, expected, "{echoes} {unacknowledged} {answer}");
        }
    }

    #[tokio::test]
    async fn the_end_of_the_connection_is_an_error() {
        let (source, listener) = duplex(1000);
        drop(listener);
        assert!(run(source, || Ok(0), true, LIMIT).await.is_err());
    }
}
