//! What pveproxy does behind the upgrade: it relays between websockets and UNIX sockets. A test can end
//! the websockets.

use crate::target::{Request, Tls};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tungstenite::{Error, Message, WebSocket};

/// How long it waits for a websocket before it looks at the UNIX socket.
const PATIENCE: Duration = Duration::from_millis(1);

/// How a websocket ends, and the UNIX socket behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A process of pveproxy is killed: the connections end without close_notify and close frame.
    Killed,
    /// In order, as if the listener had closed its connection: a close frame.
    Closed,
}

/// The websockets of a target to its listener.
#[derive(Clone, Default)]
pub struct Bridge {
    open: Arc<Mutex<Vec<Connection>>>,
    opened: Arc<AtomicUsize>,
    bytes: Arc<AtomicU64>,
}

struct Connection {
    number: usize,
    tcp: TcpStream,
    unix: UnixStream,
}

impl Bridge {
    /// Serves a request to its socket until one end closes.
    pub fn serve(&self, request: Request) {
        // As pveproxy, which does not answer if the socket is gone.
        let Ok(unix) = UnixStream::connect(request.socket()) else {
            return;
        };
        let tcp = request.stream.sock.try_clone().unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        self.open.lock().unwrap().push(Connection {
            number,
            tcp,
            unix: unix.try_clone().unwrap(),
        });
        self.relay(request.websocket(), &unix);
        let mut open = self.open.lock().unwrap();
        open.retain(|connection| connection.number != number);
    }

    fn relay(&self, mut websocket: WebSocket<Tls>, mut unix: &UnixStream) {
        let mut buffer = vec![0; 1 << 17];
        loop {
            match websocket.read() {
                Ok(Message::Binary(bytes)) => {
                    unix.set_nonblocking(false).unwrap();
                    if unix.write_all(&bytes).is_err() {
                        return;
                    }
                    self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
                Ok(Message::Close(_)) => return,
                Ok(_) => {}
                Err(Error::Io(error)) if is_timeout(error.kind()) => {}
                Err(_) => return,
            }
            unix.set_nonblocking(true).unwrap();
            match unix.read(&mut buffer) {
                Ok(0) => {
                    let _ = websocket.close(None);
                    let _ = websocket.flush();
                    return;
                }
                Ok(count) => {
                    let message = Message::binary(buffer[..count].to_vec());
                    if websocket.send(message).is_err() {
                        return;
                    }
                }
                Err(error) if is_timeout(error.kind()) => {}
                Err(_) => return,
            }
        }
    }

    /// The websockets so far.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Bytes to the listener so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends the chosen ones of those that are open, counted from 0 as they were opened. The first one of
    /// all is the heartbeat.
    pub fn end_some(&self, how: End, chosen: impl Fn(usize) -> bool) {
        let open = self.open.lock().unwrap();
        let mut ended = 0;
        for connection in open.iter().filter(|each| chosen(each.number)) {
            match how {
                End::Killed => {
                    connection.tcp.shutdown(Shutdown::Both).unwrap();
                    let _ = connection.unix.shutdown(Shutdown::Both);
                }
                // Reading from it returns the end, as if the listener had closed it.
                End::Closed => connection.unix.shutdown(Shutdown::Both).unwrap(),
            }
            ended += 1;
        }
        assert!(ended > 0, "none of {}", open.len());
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
