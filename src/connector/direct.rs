//! A listener of the target that was dialled with success, and the connections to it.

use super::race::{Candidate, Deadline, Failure};
use crate::capability::Plane;
use crate::direct::message::Open;
use crate::direct::watch::{self, WatchError};
use crate::direct::{Fate, HelloError, Link, SessionKey, WATCH};
use crate::process::Log;
use crate::relay::liveness;
use crate::tls::{Client, Fingerprint, Identity, Peer, TlsError, describe, wire};
use serde::Serialize;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};

/// Why there is no connection to the listener.
#[derive(Debug, Error)]
pub(super) enum EntryError {
    /// No TCP connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listener does not let us in.
    #[error(transparent)]
    Hello(HelloError),
    /// It says nothing.
    #[error("no {what} within {limit:?}")]
    TimedOut { what: &'static str, limit: Duration },
    /// The target has been found dead.
    #[error("{0}")]
    Dead(String),
}

/// What the source needs to be let in.
pub(super) struct Admission {
    plane: Plane,
    protocol: u16,
    key: SessionKey,
    /// `tls`: how to recognise the target, with what we present, and both fingerprints.
    tls: Option<(Client, Fingerprint, Fingerprint)>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
}

impl Admission {
    /// For a listener that was opened for this identity, if its plane has any.
    pub(super) fn new(
        open: &Open,
        identity: Option<&Identity>,
        options: &super::Options,
    ) -> Result<Self, TlsError> {
        let tls = match identity {
            Some(identity) => {
                let told = open.fingerprint.as_deref().unwrap_or_default();
                let pin: Fingerprint = told.parse()?;
                let client = Client::direct(identity, pin)?;
                Some((client, pin, identity.fingerprint()))
            }
            None => None,
        };
        Ok(Self {
            plane: open.plane,
            protocol: open.protocol,
            key: open.key.clone(),
            tls,
            connect_timeout: options.connect_timeout,
            handshake_timeout: options.handshake_timeout,
        })
    }

    /// From a TCP connection to the moment when the bytes are the forward's; what protects them.
    /// Without a deadline for all of it, each step has a limit of its own.
    async fn enter(
        &self,
        stream: TcpStream,
        endpoint: SocketAddr,
        number: u32,
        dead_peer_timeout: Duration,
        whole: Option<Deadline>,
    ) -> Result<(Link, String), EntryError> {
        liveness::probe(&stream, dead_peer_timeout)?;
        let step = || whole.unwrap_or_else(|| Deadline::within(self.handshake_timeout));
        let silent = |what, limit| EntryError::TimedOut { what, limit };
        let (mut link, cipher) = match &self.tls {
            Some((client, ..)) => {
                let Deadline { at, limit } = step();
                let stream = timeout_at(
                    at,
                    client.handshake(&endpoint.ip().to_string(), wire(stream)),
                )
                .await
                .map_err(|_| silent("answer to the TLS handshake", limit))??;
                let cipher = describe(&stream);
                (Link::Tls(Box::new(stream.into())), cipher)
            }
            None => (Link::clear(stream)?, "UNENCRYPTED".into()),
        };
        let Deadline { at, limit } = step();
        timeout_at(at, link.respond(&self.key, number))
            .await
            .map_err(|_| silent("answer to the hello", limit))?
            .map_err(explain)?;
        Ok((link, cipher))
    }
}

/// With TLS 1.3 a target that does not want our certificate says so only where the hello is
/// expected.
fn explain(cause: HelloError) -> EntryError {
    if let HelloError::Io(error) = &cause {
        if let Some(cause) = TlsError::from_alert(Peer::Target, error) {
            return EntryError::Tls(cause);
        }
    }
    EntryError::Hello(cause)
}

/// The listener, with a connection to it that watches over it.
pub(super) struct Direct {
    admission: Admission,
    candidate: Candidate,
    /// Our address on the way there.
    local: IpAddr,
    cipher: String,
    dead_peer_timeout: Duration,
    fate: Fate,
    watch: JoinHandle<()>,
}

/// What the caller and the record are told of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) plane: Plane,
    pub(super) protocol: u16,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) local: IpAddr,
    pub(super) fingerprint: Option<String>,
    pub(super) own_fingerprint: Option<String>,
    pub(super) cipher: String,
}

impl Direct {
    /// Enters by a first connection, which from then on watches over the target.
    pub(super) async fn dial(
        admission: Admission,
        stream: TcpStream,
        candidate: Candidate,
        deadline: Deadline,
        dead_peer_timeout: Duration,
        log: Arc<Log>,
    ) -> Result<Self, EntryError> {
        let endpoint = candidate.endpoint;
        let local = stream.local_addr()?.ip();
        let (link, cipher) = admission
            .enter(stream, endpoint, WATCH, dead_peer_timeout, Some(deadline))
            .await?;
        let fate = Fate::open();
        let watch = tokio::spawn(keep_watch(
            link,
            endpoint,
            dead_peer_timeout,
            fate.clone(),
            log,
        ));
        Ok(Self {
            admission,
            candidate,
            local,
            cipher,
            dead_peer_timeout,
            fate,
            watch,
        })
    }

    /// A connection to the forward of that number.
    pub(super) async fn connect(&self, number: u32) -> Result<Link, EntryError> {
        if let Some(reason) = self.fate.reason() {
            return Err(EntryError::Dead(reason));
        }
        let limit = self.admission.connect_timeout;
        let stream = timeout(limit, self.candidate.connect())
            .await
            .map_err(|_| EntryError::TimedOut {
                what: "TCP connection",
                limit,
            })??;
        let entered = self.admission.enter(
            stream,
            self.endpoint(),
            number,
            self.dead_peer_timeout,
            None,
        );
        Ok(entered.await?.0)
    }

    /// Where it is.
    pub(super) fn endpoint(&self) -> SocketAddr {
        self.candidate.endpoint
    }

    /// Whether the target still lives.
    pub(super) fn fate(&self) -> &Fate {
        &self.fate
    }

    /// The listener is about to end, which is no death.
    pub(super) fn stop_watching(&self) {
        self.watch.abort();
    }

    /// What protects the data.
    pub(super) fn cipher(&self) -> &str {
        &self.cipher
    }

    pub(super) fn summary(&self) -> Summary {
        let tls = self.admission.tls.as_ref();
        Summary {
            plane: self.admission.plane,
            protocol: self.admission.protocol,
            address: self.candidate.endpoint.ip(),
            port: self.candidate.endpoint.port(),
            local: self.local,
            fingerprint: tls.map(|(_, pin, _)| pin.to_string()),
            own_fingerprint: tls.map(|(_, _, own)| own.to_string()),
            cipher: self.cipher.clone(),
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.stop_watching();
    }
}

async fn keep_watch(link: Link, endpoint: SocketAddr, limit: Duration, fate: Fate, log: Arc<Log>) {
    let error: WatchError = watch::keep(link.into_stream(), limit).await;
    let reason = format!("the target's listener at {endpoint} is dead: {error}");
    log.line(&reason);
    fate.seal(reason);
}

/// Why nobody answered, for a plan: the addresses and what happened at each.
pub(super) fn unanswered(failures: &[Failure]) -> (String, String) {
    let addresses: Vec<String> = failures
        .iter()
        .map(|(endpoint, _)| endpoint.ip().to_string())
        .collect();
    let cause = match failures {
        [(_, cause)] => cause.to_string(),
        several => several
            .iter()
            .map(|(endpoint, cause)| format!("{}: {cause}", endpoint.ip()))
            .collect::<Vec<_>>()
            .join("; "),
    };
    (addresses.join(", "), cause)
}
