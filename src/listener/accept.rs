//! Taking connections, one after the other.

use super::door::Door;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::sleep;

/// How long to wait before trying again when the system has no descriptor or memory left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Brings everybody to the door, for ever.
pub(super) async fn all(listener: TcpListener, door: &Arc<Door>) -> Infallible {
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                told = false;
                door.knock(stream, peer);
            }
            // It went away before it was taken, which costs nothing.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Once for as long as it lasts.
                if !std::mem::replace(&mut told, true) {
                    door.log.line(format_args!(
                        "listener: cannot accept a connection: {error}"
                    ));
                }
                sleep(EXHAUSTED).await;
            }
        }
    }
}
