//! The listener's end of a stream over several connections.

use super::acceptor::{Acceptor, Refusal};
use super::connection::Connection;
use super::streams::Joined;
use crate::direct::handshake::{CONNECTED, NO_STREAM, STREAM_OVER, StreamId};
use crate::direct::lane::{finish, outcome};
use crate::direct::{Link, LinkError};
use crate::relay::Stream;
use std::sync::Arc;

impl Acceptor {
    /// Relays a stream from its first lane to its end.
    pub(super) async fn relay_stream(
        &self,
        first: Link,
        number: u32,
        id: StreamId,
        stream: Arc<Stream>,
        connection: Arc<Connection>,
    ) -> Result<(), LinkError> {
        let permit = self
            .streams
            .begin(id, number, stream.clone(), connection.clone());
        let lane = {
            let (stream, liveness) = (stream.clone(), self.liveness.clone());
            let tuning = self.tuning.clone();
            async move {
                let monitor = tuning.monitor(&*connection);
                if let Err(reason) = first.serve_lane(&stream, &liveness, monitor).await {
                    connection.lane_failed(&stream, &reason);
                }
                drop(permit);
            }
        };
        tokio::spawn(lane);
        let result = outcome(&stream, &self.liveness).await;
        self.streams.end(id, result.is_ok());
        finish(&stream, &result).await;
        result
    }

    /// A lane that joins its stream, to its end.
    pub(super) async fn join(
        &self,
        mut link: Link,
        number: u32,
        id: StreamId,
    ) -> Result<(), Refusal> {
        let (stream, connection, permit) = match self.streams.join(id, number) {
            Joined::Open(stream, connection, permit) => (stream, connection, permit),
            Joined::Full => return Err(Refusal::Lanes),
            refused => {
                let (status, refusal) = match refused {
                    Joined::Complete => (STREAM_OVER, Refusal::StreamOver),
                    _ => (NO_STREAM, Refusal::NoStream),
                };
                // The connection is refused whether or not the status arrives.
                let _ = link.send_status(status).await;
                link.close().await;
                return Err(refusal);
            }
        };
        let sent = link.send_status(CONNECTED).await;
        sent.map_err(|error| Refusal::Handshake(error.into()))?;
        let link = link.detach().map_err(Refusal::Setup)?;
        let (tuning, liveness) = (self.tuning.clone(), self.liveness.clone());
        self.lanes.spawn(async move {
            let monitor = tuning.monitor(&*connection);
            let served = match link.attach() {
                Ok(link) => link.serve_lane(&stream, &liveness, monitor).await,
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = served {
                connection.lane_failed(&stream, &reason);
            }
            drop(permit);
        });
        Ok(())
    }
}
