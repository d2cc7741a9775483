//! How the connections of a forward reach the target's socket: by websockets through its API, or by
//! direct connections to its listener.

use crate::connector::Options;
use crate::connector::api_address::ApiAddress;
use crate::connector::connect_error::ConnectError;
use crate::connector::dial::{ApiEndpoint, DialError, Websocket};
use crate::connector::direct_target::DirectTarget;
use crate::connector::lanes::Lanes;
use crate::connector::protocol::ForwardData;
use crate::connector::worker::{RequestError, WorkerChannel, request_operation, request_ticket};
use crate::direct::handshake::Purpose;
use crate::direct::message::Registered;
use crate::direct::{ForwardLanes, Link, LinkError};
use crate::relay::{Counters, Local, relay};
use crate::tuning::{INTERVAL, Observer, Tuning};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Why a forward has no transport.
#[derive(Debug, Error)]
#[error("cannot forward '{path}': {cause}")]
pub(in crate::connector) struct TransportError {
    path: PathBuf,
    cause: TransportCause,
}

#[derive(Debug, Error)]
enum TransportCause {
    #[error(transparent)]
    Target(#[from] DialError),
    #[error(transparent)]
    Register(#[from] RequestError),
}

/// Why a connection could not be opened.
#[derive(Debug, Error)]
pub(super) enum OpenError {
    #[error("the control connection has ended")]
    NoControl,
    #[error("no answer to the request for a ticket within {0:?}")]
    TimedOut(Duration),
    #[error("the target refuses a ticket for '{path}': {cause}")]
    Refused { path: String, cause: RequestError },
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{endpoint}: {cause}")]
    Direct {
        endpoint: String,
        cause: ConnectError,
    },
}

/// How the connections of a forward reach the target's socket.
pub(in crate::connector) enum Transport {
    /// One websocket with one ticket for each connection.
    Websocket {
        target: Box<ApiEndpoint>,
        ticket: Map<String, Value>,
        worker: WorkerChannel,
        options: Arc<Options>,
    },
    /// One connection to the listener for each connection.
    Direct {
        target: Arc<DirectTarget>,
        number: u32,
        lanes: ForwardLanes,
    },
}

/// An open connection to the target's socket.
pub(super) enum OpenTransport {
    Websocket(Box<Websocket>),
    Direct(Link, Arc<DirectTarget>),
    Lanes(Lanes),
}

impl Transport {
    pub(in crate::connector) fn websocket(
        data: ForwardData,
        worker: WorkerChannel,
        address: Arc<ApiAddress>,
        options: Arc<Options>,
    ) -> Result<Self, TransportError> {
        let target = ApiEndpoint::new(data.target, address).map_err(|cause| TransportError {
            path: data.unix,
            cause: cause.into(),
        })?;
        Ok(Self::Websocket {
            target: Box::new(target),
            ticket: data.ticket,
            worker,
            options,
        })
    }

    /// Registers the target's socket with the listener.
    pub(in crate::connector) async fn direct(
        data: ForwardData,
        target: Arc<DirectTarget>,
        worker: &WorkerChannel,
    ) -> Result<Self, TransportError> {
        let lanes = data.lanes();
        let operation = json!({ "op": "forward", "path": data.ticket.get("path") });
        let Registered { number } =
            request_operation(worker, &operation)
                .await
                .map_err(|cause| TransportError {
                    path: data.unix,
                    cause: cause.into(),
                })?;
        Ok(Self::Direct {
            target,
            number,
            lanes,
        })
    }

    /// Opens a connection; also returns what protects it, for the log.
    pub(super) async fn open(&self) -> Result<(OpenTransport, String), OpenError> {
        match self {
            Self::Websocket {
                target,
                ticket,
                worker,
                options,
            } => {
                let limit = options.ticket_timeout;
                let fresh = request_ticket(worker, ticket, limit)
                    .await
                    .map_err(|cause| ticket_error(ticket, cause))?;
                let websocket = target.dial(Some(fresh.reveal()), options).await?;
                let cipher = websocket.protection.cipher.clone();
                Ok((OpenTransport::Websocket(Box::new(websocket)), cipher))
            }
            Self::Direct {
                target,
                number,
                lanes: of_forward,
            } => {
                let failed = |cause| OpenError::Direct {
                    endpoint: target.name(),
                    cause,
                };
                let cipher = target.summary().cipher.clone();
                let transport = match target.lanes() {
                    Some(resources) => {
                        let (target, resources) = (target.clone(), resources.clone());
                        let lanes = Lanes::open(target, resources, *number, *of_forward);
                        OpenTransport::Lanes(lanes.await.map_err(failed)?)
                    }
                    None => {
                        let purpose = Purpose {
                            number: *number,
                            lane: None,
                        };
                        let link = target.connect(purpose).await.map_err(failed)?;
                        OpenTransport::Direct(link, target.clone())
                    }
                };
                Ok((transport, cipher))
            }
        }
    }
}

impl OpenTransport {
    /// Relays between the connection and a local socket until both have ended.
    pub(super) async fn relay(
        self,
        local: &Arc<Local>,
        counters: &Arc<Counters>,
        tuning: &Arc<Tuning>,
        observer: Arc<dyn Observer>,
    ) -> Result<(), LinkError> {
        let monitor = tuning.monitor(&*observer);
        match self {
            Self::Websocket(websocket) => {
                let Websocket {
                    sender,
                    receiver,
                    socket,
                    ..
                } = *websocket;
                let nothing = |_: &_, _| None::<Infallible>;
                tokio::select! {
                    result = relay(local, sender, receiver, counters) => Ok(result?),
                    never = monitor.run(&socket, INTERVAL, nothing) => match never {},
                }
            }
            Self::Direct(link, target) => {
                link.relay(local, counters, target.liveness(), monitor)
                    .await
            }
            Self::Lanes(lanes) => {
                lanes
                    .relay(
                        local.clone(),
                        counters.clone(),
                        tuning.clone(),
                        observer.clone(),
                    )
                    .await
            }
        }
    }
}

fn ticket_error(ticket: &Map<String, Value>, cause: RequestError) -> OpenError {
    match cause {
        RequestError::NoControl => OpenError::NoControl,
        RequestError::TimedOut(limit) => OpenError::TimedOut(limit),
        cause => {
            let path = ticket.get("path").and_then(Value::as_str);
            OpenError::Refused {
                path: path.unwrap_or_default().to_owned(),
                cause,
            }
        }
    }
}
