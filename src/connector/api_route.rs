//! A connection to the listener's UNIX socket through the target's API: a websocket.

use super::Options;
use super::api_address::ApiAddress;
use super::connect_error::ConnectError;
use super::dial::{ApiEndpoint, DialError, Protection, Websocket};
use super::protocol::TargetData;
use super::worker::{
    RequestError, WeakWorkerChannel, WorkerChannel, request_operation, request_ticket,
};
use crate::direct::handshake::Purpose;
use crate::direct::message::OpenSocket;
use crate::direct::{Link, SessionKey, WebsocketEnd};
use crate::relay::{Counters, Local, relay};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The listener's socket behind the target's API.
pub(super) struct ApiRoute {
    socket: ApiEndpoint,
    /// The parameters of the worker's command `ticket`.
    ticket: Map<String, Value>,
    worker: WeakWorkerChannel,
    protocol: u16,
    key: SessionKey,
    options: Arc<Options>,
}

impl ApiRoute {
    /// To the socket that the target has opened.
    pub(super) fn new(
        open: &OpenSocket,
        api: &TargetData,
        address: Arc<ApiAddress>,
        worker: &WorkerChannel,
        options: Arc<Options>,
    ) -> Result<Self, DialError> {
        Ok(Self {
            socket: ApiEndpoint::new(api.of_socket(&open.path), address)?,
            ticket: Map::from_iter([("path".to_owned(), open.path.as_str().into())]),
            worker: worker.downgrade(),
            protocol: open.protocol,
            key: open.key.clone(),
            options,
        })
    }

    /// Host and port of the API.
    pub(super) fn peer(&self) -> String {
        self.socket.peer()
    }

    pub(super) fn protocol(&self) -> u16 {
        self.protocol
    }

    /// Opens a websocket, and makes a link of it.
    pub(super) async fn connect(
        &self,
        purpose: Purpose,
    ) -> Result<(Link, Protection), ConnectError> {
        let limit = self.options.ticket_timeout;
        let worker = self.worker.upgrade().ok_or(RequestError::NoControl)?;
        // A worker that knows that its listener has ended gives no tickets for it: pveproxy may fail if
        // nothing listens on a socket.
        let _: Value = request_operation(&worker, &json!({ "op": "stat" })).await?;
        let ticket = request_ticket(&worker, &self.ticket, limit).await?;
        let websocket = self.socket.dial(Some(ticket.reveal()), &self.options);
        let Websocket {
            sender,
            receiver,
            socket,
            protection,
        } = websocket.await?;
        let (lane, carried) = UnixStream::pair()?;
        let carrier = tokio::spawn(async move {
            let local = Local::new(carried);
            // The lane reports its end, whatever the reason is.
            match relay(&local, sender, receiver, &Counters::default()).await {
                Ok(()) => local.close(),
                Err(_) => local.fail().await,
            }
        });
        let carrier = carrier.abort_handle();
        let end = WebsocketEnd::Source {
            socket,
            carrier: carrier.clone(),
        };
        let mut link = Link::Websocket(lane, end);
        let limit = self.options.handshake_timeout;
        let answered = timeout(limit, link.respond(&self.key, purpose, self.protocol)).await;
        let answered = match answered {
            Ok(answered) => answered.map_err(ConnectError::Handshake),
            Err(_) => Err(ConnectError::TimedOut {
                what: "answer to the handshake",
                limit,
            }),
        };
        answered.inspect_err(|_| carrier.abort())?;
        Ok((link, protection))
    }
}
