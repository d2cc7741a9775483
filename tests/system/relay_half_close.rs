//! The relay on a fake connection with half-close: each direction ends independently.

use pve_tunnel::relay::{Counters, Incoming, Local, Outgoing, Pieces, Received, RelayError, relay};
use std::future::pending;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// The number of pieces that a connection accepts by default.
const PERMITS: usize = 1000;

/// What the peer sends.
enum Sent {
    Data(Vec<u8>),
    End,
    Stopped,
}

/// What the peer has received.
#[derive(Default)]
struct Delivered {
    data: Mutex<Vec<u8>>,
    ended: AtomicBool,
    /// Notified of an end and of a failure to send.
    changed: Notify,
}

impl Delivered {
    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Waits until the peer has received the end of the stream. Returns the data before it.
    async fn until_end(&self) -> Vec<u8> {
        while !self.ended.load(Ordering::Relaxed) {
            self.changed.notified().await;
        }
        self.data.lock().unwrap().clone()
    }
}

struct Sending {
    received: Arc<Delivered>,
    /// A permit for each piece that it may still send. Closed if sending fails.
    permits: Arc<Semaphore>,
}

impl Outgoing for Sending {
    const ROOM: usize = 0;
    const MAX: usize = 4;

    async fn send(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match self.permits.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => {
                self.received.changed.notify_one();
                return Err(ErrorKind::BrokenPipe.into());
            }
        }
        self.received.data.lock().unwrap().extend_from_slice(buffer);
        Ok(())
    }

    async fn control_pending(&mut self) {
        pending().await
    }

    async fn send_control(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.received.end();
        Ok(())
    }
}

struct Receiving {
    queue: mpsc::UnboundedReceiver<Sent>,
    data: Vec<u8>,
    /// Notified of each piece of data that was passed to the relay.
    delivered: Arc<Notify>,
}

impl Incoming for Receiving {
    const HALF_CLOSE: bool = true;

    async fn next(&mut self) -> io::Result<Received<'_>> {
        match self.queue.recv().await {
            Some(Sent::Data(data)) => {
                self.data = data;
                self.delivered.notify_one();
                Ok(Received::Data(Pieces::One(&self.data)))
            }
            Some(Sent::End) => Ok(Received::End),
            Some(Sent::Stopped) => Ok(Received::Stopped),
            None => pending().await,
        }
    }
}

/// A relay and its fake connection.
struct Relay {
    received: Arc<Delivered>,
    permits: Arc<Semaphore>,
    sent: mpsc::UnboundedSender<Sent>,
    delivered: Arc<Notify>,
    returned: Arc<Notify>,
    /// A holder of this permit prevents the close of the local socket after the relay has returned.
    closing: Arc<Semaphore>,
    task: JoinHandle<Result<(), RelayError>>,
}

impl Relay {
    /// Starts a relay. Also returns the local program's end.
    fn start() -> (UnixStream, Self) {
        let (near, local) = UnixStream::pair().unwrap();
        let (sent, queue) = mpsc::unbounded_channel();
        let received = Arc::<Delivered>::default();
        let permits = Arc::new(Semaphore::new(PERMITS));
        let delivered = Arc::<Notify>::default();
        let sending = Sending {
            received: received.clone(),
            permits: permits.clone(),
        };
        let receiving = Receiving {
            queue,
            data: Vec::new(),
            delivered: delivered.clone(),
        };
        let returned = Arc::<Notify>::default();
        let closing = Arc::new(Semaphore::new(1));
        let (returning, may_close) = (returned.clone(), closing.clone());
        let task = tokio::spawn(async move {
            let local = Local::new(local);
            let result = relay(&local, sending, receiving, &Counters::default()).await;
            returning.notify_one();
            let _permit = may_close.acquire().await.unwrap();
            match result {
                Ok(()) => local.close(),
                Err(_) => local.fail().await,
            }
            result
        });
        let relay = Self {
            received,
            permits,
            sent,
            delivered,
            returned,
            closing,
            task,
        };
        (near, relay)
    }

    fn send(&self, data: &[u8]) {
        self.sent.send(Sent::Data(data.to_vec())).unwrap();
    }

    fn end(&self) {
        self.sent.send(Sent::End).unwrap();
    }

    /// Waits until the relay has ended. Returns its result, the data that the peer has received,
    /// and whether the peer has received the end of the stream.
    async fn ended(self) -> (Result<(), RelayError>, Vec<u8>, bool) {
        let result = self.task.await.unwrap();
        let data = self.received.data.lock().unwrap().clone();
        (result, data, self.received.ended.load(Ordering::Relaxed))
    }
}

async fn read_all(near: &mut UnixStream) -> (Vec<u8>, io::Result<()>) {
    let mut data = Vec::new();
    let end = near.read_to_end(&mut data).await.map(drop);
    (data, end)
}

#[tokio::test]
async fn the_end_from_the_peer_ends_the_local_stream_and_keeps_the_other_direction_open() {
    let (mut near, relay) = Relay::start();
    relay.send(b"answer");
    relay.end();
    let (data, end) = read_all(&mut near).await;
    end.unwrap();
    assert_eq!(data, b"answer");
    near.write_all(b"still sending").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(relay.received.until_end().await, b"still sending");
    relay.ended().await.0.unwrap();
}

#[tokio::test]
async fn the_end_of_the_local_stream_is_sent_and_keeps_the_other_direction_open() {
    let (mut near, relay) = Relay::start();
    near.write_all(b"request").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(relay.received.until_end().await, b"request");
    relay.send(b"late ");
    relay.send(b"answer");
    relay.end();
    let (data, end) = read_all(&mut near).await;
    end.unwrap();
    assert_eq!(data, b"late answer");
    relay.ended().await.0.unwrap();
}

#[tokio::test]
async fn a_connection_that_stops_without_an_end_is_truncated_even_after_our_end() {
    let (mut near, relay) = Relay::start();
    near.write_all(b"request").await.unwrap();
    near.shutdown().await.unwrap();
    relay.received.until_end().await;
    relay.send(b"part of an ans");
    relay.sent.send(Sent::Stopped).unwrap();
    let (data, end) = read_all(&mut near).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(data, b"part of an ans");
    let (result, ..) = relay.ended().await;
    assert!(matches!(result, Err(RelayError::Truncated)), "{result:?}");
}

#[tokio::test]
async fn a_program_that_closes_with_unread_data_is_an_error_and_its_data_is_sent() {
    let (mut near, relay) = Relay::start();
    relay.send(b"never read");
    near.readable().await.unwrap();
    near.write_all(b"all that it wrote").await.unwrap();
    drop(near);
    let (result, data, ended) = relay.ended().await;
    assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
    assert_eq!(data, b"all that it wrote");
    assert!(!ended);
}

#[tokio::test]
async fn data_for_a_closed_program_is_an_error_and_the_programs_data_is_sent() {
    let (mut near, relay) = Relay::start();
    // The connection accepts nothing for now.
    relay.permits.forget_permits(PERMITS);
    near.write_all(b"all that it wrote").await.unwrap();
    drop(near);
    relay.send(b"undeliverable");
    relay.delivered.notified().await;
    relay.permits.add_permits(PERMITS);
    let (result, data, ended) = relay.ended().await;
    assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
    assert_eq!(data, b"all that it wrote");
    assert!(!ended, "the failure to deliver is not an end");
}

#[tokio::test]
async fn data_after_the_end_of_a_program_is_an_error() {
    let (mut near, relay) = Relay::start();
    near.write_all(b"all that it wrote").await.unwrap();
    drop(near);
    assert_eq!(relay.received.until_end().await, b"all that it wrote");
    relay.send(b"undeliverable");
    let (result, ..) = relay.ended().await;
    assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
}

#[tokio::test]
async fn data_that_a_program_does_not_read_does_not_block_what_it_writes() {
    let (mut near, relay) = Relay::start();
    let reading = socket2::SockRef::from(&near);
    reading.shutdown(Shutdown::Read).unwrap();
    for _ in 0..3 {
        relay.send(b"unwanted");
        relay.delivered.notified().await;
    }
    near.write_all(b"all that it writes").await.unwrap();
    drop(near);
    assert_eq!(relay.received.until_end().await, b"all that it writes");
    relay.send(b"and unwanted later");
    relay.end();
    relay.ended().await.0.unwrap();
}

#[tokio::test]
async fn after_a_failure_to_send_the_other_direction_delivers_its_data_and_no_end() {
    let (mut near, relay) = Relay::start();
    let hold = relay.closing.clone().acquire_owned().await.unwrap();
    relay.permits.close();
    near.write_all(b"lost").await.unwrap();
    relay.received.changed.notified().await;
    relay.send(b"final data");
    relay.end();
    near.read_exact(&mut [0; 10]).await.unwrap();
    relay.returned.notified().await;
    let unended = near.try_read(&mut [0]).unwrap_err();
    assert_eq!(unended.kind(), ErrorKind::WouldBlock);
    drop(hold);
    let end = read_all(&mut near).await.1.unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    let (result, data, ended) = relay.ended().await;
    assert!(matches!(result, Err(RelayError::Send(_))), "{result:?}");
    assert!(data.is_empty() && !ended);
}
