//! What pveproxy does behind the upgrade: it relays between websockets and UNIX sockets. A test can end
//! the websockets, or stop the relay.

use crate::target::{Request, Tls, close_cleanly};
use crate::wait_until;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;
use tungstenite::{Error, Message, WebSocket};

/// How long it waits for a websocket before it looks at the UNIX socket.
const PATIENCE: Duration = Duration::from_millis(1);

/// A pause after each message to the listener, so that a test can act while data moves.
const PACE: Duration = Duration::from_millis(4);

/// How a websocket ends, and the UNIX socket behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A process of pveproxy is killed: the connections end without close_notify and close frame.
    Killed,
    /// As if the listener had closed its connection: close_notify, without a close frame.
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
    state: Arc<State>,
}

/// What one relay does.
#[derive(Default)]
struct State {
    /// Bytes to the listener.
    bytes: AtomicU64,
    /// Whether it shall stop, and has.
    is_frozen: AtomicBool,
    has_stopped: AtomicBool,
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
        let state = Arc::<State>::default();
        self.open.lock().unwrap().push(Connection {
            number,
            tcp,
            unix: unix.try_clone().unwrap(),
            state: state.clone(),
        });
        self.relay(request.websocket(), &unix, &state);
        let mut open = self.open.lock().unwrap();
        open.retain(|connection| connection.number != number);
    }

    fn relay(&self, mut websocket: WebSocket<Tls>, mut unix: &UnixStream, state: &State) {
        let mut buffer = vec![0; 1 << 17];
        loop {
            while state.is_frozen.load(Ordering::Relaxed) {
                state.has_stopped.store(true, Ordering::Relaxed);
                sleep(PATIENCE);
            }
            match websocket.read() {
                Ok(Message::Binary(bytes)) => {
                    unix.set_nonblocking(false).unwrap();
                    if unix.write_all(&bytes).is_err() {
                        return;
                    }
                    sleep(PACE);
                    for counter in [&self.bytes, &state.bytes] {
                        counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    }
                }
                Ok(Message::Close(_)) => return,
                Ok(_) => {}
                Err(Error::Io(error)) if is_timeout(error.kind()) => {}
                Err(_) => return,
            }
            unix.set_nonblocking(true).unwrap();
            match unix.read(&mut buffer) {
                Ok(0) => return close_cleanly(websocket.into_inner()),
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

    /// The websockets that are open and have carried more than so many bytes to the listener.
    pub fn used(&self, bytes: u64) -> usize {
        let open = self.open.lock().unwrap();
        let carried = open
            .iter()
            .map(|each| each.state.bytes.load(Ordering::Relaxed));
        carried.filter(|carried| *carried > bytes).count()
    }

    /// Bytes to the listener so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Stops the relay of the chosen ones, as if a process of pveproxy were suspended: the kernels still
    /// acknowledge what they receive.
    pub fn freeze_some(&self, chosen: impl Fn(usize) -> bool) {
        let open = self.open.lock().unwrap();
        for connection in open.iter().filter(|each| chosen(each.number)) {
            let state = &connection.state;
            state.is_frozen.store(true, Ordering::Relaxed);
            wait_until("it has stopped", || {
                state.has_stopped.load(Ordering::Relaxed)
            });
        }
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
