//! Connecting to the first of several addresses that answers (RFC 8305, "Happy Eyeballs").

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Delay before the next address is tried while the one before has not answered (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// An address to connect to, with the source address and interface if they matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) endpoint: SocketAddr,
    /// This node's address and interface; if absent, the kernel chooses.
    from: Option<(IpAddr, String)>,
}

impl Candidate {
    /// Reached by the path that the kernel chooses.
    pub(super) fn any_path(endpoint: SocketAddr) -> Self {
        Self {
            endpoint,
            from: None,
        }
    }

    /// Reached only from this address over this interface.
    pub(super) fn from(endpoint: SocketAddr, address: IpAddr, interface: String) -> Self {
        Self {
            endpoint,
            from: Some((address, interface)),
        }
    }

    /// Connects, without a time limit of its own.
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

/// A point in time, and the limit that it results from, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

impl Deadline {
    /// The point in time `limit` from now.
    pub(super) fn within(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }
}

/// Addresses that could not be connected to, each with the reason.
#[derive(Debug)]
pub(super) struct Failures(Vec<(SocketAddr, io::Error)>);

impl Failures {
    /// The addresses, separated by commas.
    pub(super) fn addresses(&self) -> String {
        let addresses = self.0.iter().map(|(endpoint, _)| endpoint.ip().to_string());
        addresses.collect::<Vec<_>>().join(", ")
    }
}

/// The reason, or each address with its reason if there are several.
impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("there is no address"),
            [(_, cause)] => cause.fmt(f),
            several => {
                for (index, (endpoint, cause)) in several.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{}: {cause}", endpoint.ip())?;
                }
                Ok(())
            }
        }
    }
}

/// Connects to the first of `candidates` that answers before the deadline. Address families alternate,
/// beginning with that of the first candidate.
pub(super) async fn connect(
    candidates: Vec<Candidate>,
    deadline: Deadline,
) -> Result<(TcpStream, Candidate), Failures> {
    let mut waiting = alternate_families(candidates);
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
                // A panicked attempt counts as no answer.
                Err(_) => next = Instant::now(),
            },
        }
    }
    Err(Failures(failures))
}

async fn attempt(candidate: Candidate, deadline: Deadline) -> (Candidate, io::Result<TcpStream>) {
    let connected = timeout_at(deadline.at, candidate.connect()).await;
    let silent = |_| {
        // The error that the kernel would report after a longer time.
        let errno = io::Error::from_raw_os_error(libc::ETIMEDOUT);
        let text = format!("{errno}: no answer within {:?}", deadline.limit);
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    };
    (candidate, connected.unwrap_or_else(silent))
}

/// Orders the candidates so that the two address families alternate (RFC 8305, section 4).
fn alternate_families(candidates: Vec<Candidate>) -> VecDeque<Candidate> {
    let is_v4 = |candidate: &Candidate| candidate.endpoint.is_ipv4();
    let first_is_v4 = candidates.first().is_some_and(is_v4);
    let (mut first, mut others): (VecDeque<Candidate>, VecDeque<Candidate>) = candidates
        .into_iter()
        .partition(|candidate| is_v4(candidate) == first_is_v4);
    let mut ordered = VecDeque::with_capacity(first.len() + others.len());
    while !first.is_empty() || !others.is_empty() {
        ordered.extend(first.pop_front());
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
        endpoints.map(Candidate::any_path).collect()
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
            assert_eq!(
                alternate_families(candidates(given, 1)),
                candidates(expected, 1)
            );
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
    async fn every_failure_is_returned() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let candidates = candidates(&["127.0.0.2", "127.0.0.3"], port);
        let failures = connect(candidates, Deadline::within(Duration::from_secs(20)))
            .await
            .unwrap_err();
        assert_eq!(failures.0.len(), 2);
        assert!(failures.0[0].1.to_string().contains("refused"));
    }
}
