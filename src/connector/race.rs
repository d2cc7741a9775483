//! Connecting to whichever of several addresses answers first (RFC 8305, "Happy Eyeballs").

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long an address is waited for before the next one is tried beside it (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A place to connect to, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) endpoint: SocketAddr,
    /// Our own address and interface, where they matter; otherwise the kernel chooses.
    from: Option<(IpAddr, String)>,
}

impl Candidate {
    /// Whichever way the kernel takes.
    pub(super) fn anywhere(endpoint: SocketAddr) -> Self {
        Self {
            endpoint,
            from: None,
        }
    }

    /// From this address over this interface, or not at all.
    pub(super) fn from(endpoint: SocketAddr, address: IpAddr, interface: String) -> Self {
        Self {
            endpoint,
            from: Some((address, interface)),
        }
    }

    /// Connects.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let socket = match self.endpoint {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some((address, interface)) = &self.from {
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.bind(SocketAddr::new(*address, 0))?;
        }
        socket.connect(self.endpoint).await
    }
}

/// When something has to have happened; and how long it may take, for words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

impl Deadline {
    /// From now.
    pub(super) fn within(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }
}

/// An address that could not be connected to.
pub(super) type Failure = (SocketAddr, io::Error);

/// Connects to the first of `candidates` that answers in time, the families in turn, beginning with
/// the first; all that went wrong if none does.
pub(super) async fn connect(
    candidates: Vec<Candidate>,
    deadline: Deadline,
) -> Result<(TcpStream, Candidate), Vec<Failure>> {
    let mut waiting = in_turn(candidates);
    let mut attempts = JoinSet::new();
    let mut failures = Vec::new();
    let mut next = Instant::now();
    while !waiting.is_empty() || !attempts.is_empty() {
        tokio::select! {
            () = sleep_until(next), if !waiting.is_empty() => {
                if let Some(candidate) = waiting.pop_front() {
                    attempts.spawn(attempt(candidate, deadline));
                }
                next = Instant::now() + ATTEMPT_DELAY;
            }
            Some(ended) = attempts.join_next() => match ended {
                Ok((candidate, Ok(stream))) => return Ok((stream, candidate)),
                Ok((candidate, Err(error))) => {
                    failures.push((candidate.endpoint, error));
                    next = Instant::now();
                }
                // It panicked, which is as good as no answer; there is nothing to tell.
                Err(_) => next = Instant::now(),
            },
        }
    }
    Err(failures)
}

async fn attempt(candidate: Candidate, deadline: Deadline) -> (Candidate, io::Result<TcpStream>) {
    let connected = timeout_at(deadline.at, candidate.connect()).await;
    let silent = |_| {
        // What the kernel would say, if it were asked for longer.
        let errno = io::Error::from_raw_os_error(libc::ETIMEDOUT);
        let text = format!("{errno}: no answer within {:?}", deadline.limit);
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    };
    (candidate, connected.unwrap_or_else(silent))
}

/// The same candidates, but the two families alternate (RFC 8305, section 4).
fn in_turn(candidates: Vec<Candidate>) -> VecDeque<Candidate> {
    let is_v4 = |candidate: &Candidate| candidate.endpoint.is_ipv4();
    let first_is_v4 = candidates.first().is_some_and(is_v4);
    let (mut ours, mut others): (VecDeque<Candidate>, VecDeque<Candidate>) = candidates
        .into_iter()
        .partition(|candidate| is_v4(candidate) == first_is_v4);
    let mut ordered = VecDeque::with_capacity(ours.len() + others.len());
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

    fn candidates(addresses: &[&str], port: u16) -> Vec<Candidate> {
        let endpoints = addresses.iter().map(|text| (text.parse().unwrap(), port));
        let endpoints = endpoints.map(|(address, port)| SocketAddr::new(address, port));
        endpoints.map(Candidate::anywhere).collect()
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
            assert_eq!(in_turn(candidates(given, 1)), candidates(expected, 1));
        }
    }

    #[tokio::test]
    async fn a_refusal_lets_the_next_address_be_tried_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let started = Instant::now();
        let deadline = Deadline::within(Duration::from_secs(20));
        // Nothing listens on that port of 127.0.0.2.
        let candidates = candidates(&["127.0.0.2", "127.0.0.1"], port);
        let (_, first) = connect(candidates.clone(), deadline).await.unwrap();
        assert_eq!(first, candidates[1]);
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn every_failure_is_told() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let candidates = candidates(&["127.0.0.2", "127.0.0.3"], port);
        let failures = connect(candidates, Deadline::within(Duration::from_secs(20)))
            .await
            .unwrap_err();
        assert_eq!(failures.len(), 2);
        assert!(failures[0].1.to_string().contains("refused"));
    }
}
