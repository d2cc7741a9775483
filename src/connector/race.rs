//! Connecting to whichever of several addresses answers first (RFC 8305, "Happy Eyeballs").

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long an address is waited for before the next one is tried beside it (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// An address that could not be connected to.
pub(super) type Failure = (SocketAddr, io::Error);

/// Connects to the first of `addresses` that answers within `limit`, the families in turn,
/// beginning with the first address; all that went wrong if none does.
pub(super) async fn connect(
    addresses: &[IpAddr],
    port: u16,
    limit: Duration,
) -> Result<(TcpStream, SocketAddr), Vec<Failure>> {
    let deadline = Instant::now() + limit;
    let mut waiting: VecDeque<SocketAddr> = in_turn(addresses)
        .into_iter()
        .map(|address| SocketAddr::new(address, port))
        .collect();
    let mut attempts = JoinSet::new();
    let mut failures = Vec::new();
    let mut next = Instant::now();
    while !waiting.is_empty() || !attempts.is_empty() {
        tokio::select! {
            () = sleep_until(next), if !waiting.is_empty() => {
                if let Some(address) = waiting.pop_front() {
                    attempts.spawn(attempt(address, deadline, limit));
                }
                next = Instant::now() + ATTEMPT_DELAY;
            }
            Some(ended) = attempts.join_next() => match ended {
                Ok((address, Ok(stream))) => return Ok((stream, address)),
                Ok((address, Err(error))) => {
                    failures.push((address, error));
                    next = Instant::now();
                }
                // It panicked, which is as good as no answer; there is nothing to tell.
                Err(_) => next = Instant::now(),
            },
        }
    }
    Err(failures)
}

async fn attempt(
    address: SocketAddr,
    deadline: Instant,
    limit: Duration,
) -> (SocketAddr, io::Result<TcpStream>) {
    let connected = timeout_at(deadline, TcpStream::connect(address)).await;
    let silent = |_| {
        let text = format!("no answer within {limit:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    };
    (address, connected.unwrap_or_else(silent))
}

/// The same addresses, but the two families alternate (RFC 8305, section 4).
fn in_turn(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (mut ours, mut others): (VecDeque<IpAddr>, VecDeque<IpAddr>) = addresses
        .iter()
        .copied()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let mut ordered = Vec::with_capacity(addresses.len());
    while !ours.is_empty() || !others.is_empty() {
        ordered.extend(ours.pop_front());
        ordered.extend(others.pop_front());
    }
    ordered
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_and_the_first_address_leads() {
        for (given, expected) in [
            (
                &["::1", "::2", "192.0.2.1"][..],
                &["::1", "192.0.2.1", "::2"][..],
            ),
            (
                &["192.0.2.1", "192.0.2.2", "::1"],
                &["192.0.2.1", "::1", "192.0.2.2"],
            ),
            (&[], &[]),
        ] {
            assert_eq!(in_turn(&addresses(given)), addresses(expected));
        }
    }

    #[tokio::test]
    async fn a_refusal_lets_the_next_address_be_tried_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let started = Instant::now();
        // Nothing listens on that port of 127.0.0.2.
        let candidates = addresses(&["127.0.0.2", "127.0.0.1"]);
        let (_, address) = connect(&candidates, port, Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!(address.ip(), candidates[1]);
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn every_failure_is_told() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let candidates = addresses(&["127.0.0.2", "127.0.0.3"]);
        let failures = connect(&candidates, port, Duration::from_secs(20))
            .await
            .unwrap_err();
        assert_eq!(failures.len(), 2);
        assert!(failures[0].1.to_string().contains("refused"));
    }
}
