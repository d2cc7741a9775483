//! The address of the target's API: resolved once, raced, and remembered for later connections.

use super::happy_eyeballs::{self, Candidate, Deadline};
use crate::system::lock;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How long the remembered address may take before the host is resolved again. The kernel repeats a
/// lost SYN after 1 s.
const REMEMBERED_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum AddressError {
    #[error("no address from the resolver within {0:?}")]
    Resolver(Duration),
    #[error("{0}")]
    Failed(String),
}

/// The address at which one endpoint was reached last. All connections of a tunnel share it: a dead
/// address or a dead name server costs time once, and not for each connection.
#[derive(Debug, Default)]
pub(super) struct ApiAddress {
    last: Mutex<Option<Remembered>>,
}

#[derive(Clone, Debug)]
struct Remembered {
    host: String,
    port: u16,
    address: SocketAddr,
}

impl ApiAddress {
    /// Connects to the remembered address of the endpoint. If there is none, or if it does not answer,
    /// `resolve` provides the addresses, and the first one that answers is remembered.
    pub(super) async fn connect(
        &self,
        (host, port): (&str, u16),
        deadline: Deadline,
        resolve: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    ) -> Result<TcpStream, AddressError> {
        if let Some(address) = self.remembered(host, port) {
            let until = deadline.at.min(Instant::now() + REMEMBERED_TIMEOUT);
            match timeout_at(until, Candidate::any_path(address).connect()).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(_)) | Err(_) => self.forget(address),
            }
        }
        let addresses = timeout_at(deadline.at, resolve)
            .await
            .map_err(|_| AddressError::Resolver(deadline.limit))?
            .map_err(|error| AddressError::Failed(error.to_string()))?;
        let candidates = addresses.into_iter().map(Candidate::any_path).collect();
        let (stream, candidate) = happy_eyeballs::connect(candidates, deadline)
            .await
            .map_err(|failures| AddressError::Failed(failures.to_string()))?;
        *lock(&self.last) = Some(Remembered {
            host: host.to_owned(),
            port,
            address: candidate.endpoint,
        });
        Ok(stream)
    }

    fn remembered(&self, host: &str, port: u16) -> Option<SocketAddr> {
        let last = lock(&self.last);
        let last = last.as_ref()?;
        (last.host == host && last.port == port).then_some(last.address)
    }

    /// Forgets an address that failed. Another connection may have replaced it meanwhile.
    fn forget(&self, address: SocketAddr) {
        let mut last = lock(&self.last);
        if last.as_ref().is_some_and(|last| last.address == address) {
            *last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::future::ready;
    use std::net::{Ipv4Addr, TcpListener};

    const HOST: (&str, u16) = ("target", 8006);

    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn deadline() -> Deadline {
        Deadline::within(Duration::from_secs(20))
    }

    async fn not_resolved() -> io::Result<Vec<SocketAddr>> {
        panic!("the host was resolved again")
    }

    #[tokio::test]
    async fn a_host_is_resolved_once_and_the_address_that_answered_is_remembered() {
        let known = ApiAddress::default();
        let (_listener, alive) = listen();
        // Nothing listens at this address.
        let dead = SocketAddr::new([127, 0, 0, 2].into(), alive.port());
        let found = ready(Ok(vec![dead, alive]));
        let stream = known.connect(HOST, deadline(), found).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        for _ in 0..3 {
            let stream = known
                .connect(HOST, deadline(), not_resolved())
                .await
                .unwrap();
            assert_eq!(stream.peer_addr().unwrap(), alive);
        }
    }

    #[tokio::test]
    async fn an_address_that_fails_is_forgotten_and_the_host_resolved_again() {
        let known = ApiAddress::default();
        let (first, address) = listen();
        known
            .connect(HOST, deadline(), ready(Ok(vec![address])))
            .await
            .unwrap();
        drop(first);
        let (_second, other) = listen();
        let stream = known
            .connect(HOST, deadline(), ready(Ok(vec![other])))
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), other);
        known
            .connect(HOST, deadline(), not_resolved())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn another_host_or_port_is_resolved_by_itself() {
        let known = ApiAddress::default();
        let (_one, address) = listen();
        let (_two, other) = listen();
        for (endpoint, address) in [
            (HOST, address),
            (("other", 8006), other),
            (("other", 443), address),
        ] {
            let stream = known
                .connect(endpoint, deadline(), ready(Ok(vec![address])))
                .await
                .unwrap();
            assert_eq!(stream.peer_addr().unwrap(), address, "{endpoint:?}");
        }
    }

    #[tokio::test]
    async fn a_resolver_that_does_not_answer_has_a_limit() {
        let limit = Duration::from_millis(50);
        let error = ApiAddress::default()
            .connect(HOST, Deadline::within(limit), std::future::pending())
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no address from the resolver within 50ms"
        );
    }
}
