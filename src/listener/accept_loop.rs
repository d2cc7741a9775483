//! Accepting connections, one after the other.

use super::acceptor::Acceptor;
use super::sockets::ListeningSocket;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Pause before the next attempt when the system has no descriptor or memory left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections on all of these sockets until the task is cancelled.
pub(super) async fn run_all(sockets: Vec<ListeningSocket>, acceptor: &Arc<Acceptor>) -> Infallible {
    let mut loops = JoinSet::new();
    for socket in sockets {
        let acceptor = acceptor.clone();
        loops.spawn(async move { run(socket, &acceptor).await });
    }
    loop {
        match loops.join_next().await {
            Some(Ok(never)) => match never {},
            // A panicked loop has closed its socket. The others continue.
            Some(Err(_)) => {}
            None => pending::<()>().await,
        }
    }
}

async fn run(socket: ListeningSocket, acceptor: &Arc<Acceptor>) -> Infallible {
    loop {
        match socket.accept().await {
            Ok((arrival, peer)) => acceptor.accept(arrival, peer),
            // The peer closed the connection before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                acceptor.log.limited(
                    "listener: connections that cannot be accepted",
                    format_args!("listener: cannot accept a connection: {error}"),
                );
                sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}
