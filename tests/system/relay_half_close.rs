//! The relay on a wire with half-close, which the test plays: each direction ends by itself.

use pve_tunnel::relay::{Counters, Incoming, Local, Outgoing, Received, RelayError, relay};
use std::future::pending;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// How much a wire takes if nothing is said, in pieces.
const LEAVE: usize = 1000;

/// What the other node sends.
enum Sent {
    Data(Vec<u8>),
    End,
    Stopped,
}

/// What has reached the other node.
#[derive(Default)]
struct Reached {
    data: Mutex<Vec<u8>>,
    ended: AtomicBool,
    /// Told of an end, and of a failure to send.
    changed: Notify,
}

impl Reached {
    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Waits until the other node has been told that no more comes; what it got before.
    async fn until_end(&self) -> Vec<u8> {
        while !self.ended.load(Ordering::Relaxed) {
            self.changed.notified().await;
        }
        self.data.lock().unwrap().clone()
    }
}

struct Sending {
    reached: Arc<Reached>,
    /// How many more pieces it takes; closed when it is broken.
    leave: Arc<Semaphore>,
}

impl Outgoing for Sending {
    const ROOM: usize = 0;
    const MAX: usize = 4;

    async fn send(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match self.leave.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => {
                self.reached.changed.notify_one();
                return Err(ErrorKind::BrokenPipe.into());
            }
        }
        self.reached.data.lock().unwrap().extend_from_slice(buffer);
        Ok(())
    }

    async fn control_pending(&mut self) {
        pending().await
    }

    async fn send_control(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.reached.end();
        Ok(())
    }
}

struct Receiving {
    queue: mpsc::UnboundedReceiver<Sent>,
    data: Vec<u8>,
    /// Told of each piece of data that is delivered.
    delivered: Arc<Notify>,
}

impl Incoming for Receiving {
    const HALF_CLOSE: bool = true;

    async fn next(&mut self) -> io::Result<Received<'_>> {
        match self.queue.recv().await {
            Some(Sent::Data(data)) => {
                self.data = data;
                self.delivered.notify_one();
                Ok(Received::Data(&self.data))
            }
            Some(Sent::End) => Ok(Received::End),
            Some(Sent::Stopped) => Ok(Received::Stopped),
            None => pending().await,
        }
    }
}

/// A relay and what it is connected to.
struct Relay {
    reached: Arc<Reached>,
    leave: Arc<Semaphore>,
    sent: mpsc::UnboundedSender<Sent>,
    delivered: Arc<Notify>,
    returned: Arc<Notify>,
    /// Whoever has it keeps the local socket from being closed afterwards.
    closing: Arc<Semaphore>,
    task: JoinHandle<Result<(), RelayError>>,
}

impl Relay {
    /// Starts one; also gives the local program's end.
    fn start() -> (UnixStream, Self) {
        let (near, local) = UnixStream::pair().unwrap();
        let (sent, queue) = mpsc::unbounded_channel();
        let reached = Arc::<Reached>::default();
        let leave = Arc::new(Semaphore::new(LEAVE));
        let delivered = Arc::<Notify>::default();
        let sending = Sending {
            reached: reached.clone(),
            leave: leave.clone(),
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
            reached,
            leave,
            sent,
            delivered,
            returned,
            closing,
            task,
        };
        (near, relay)
    }

    fn say(&self, data: &[u8]) {
        self.sent.send(Sent::Data(data.to_vec())).unwrap();
    }

    fn end(&self) {
        self.sent.send(Sent::End).unwrap();
    }

    /// Waits until it is over; how it went, what has reached the other node, and whether that was
    /// told of an end.
    async fn over(self) -> (Result<(), RelayError>, Vec<u8>, bool) {
        let result = self.task.await.unwrap();
        let data = self.reached.data.lock().unwrap().clone();
        (result, data, self.reached.ended.load(Ordering::Relaxed))
    }
}

async fn read_all(near: &mut UnixStream) -> (Vec<u8>, io::Result<()>) {
    let mut data = Vec::new();
    let end = near.read_to_end(&mut data).await.map(drop);
    (data, end)
}

#[tokio::test]
async fn the_end_of_the_wire_ends_the_local_stream_and_leaves_the_other_direction_open() {
    let (mut near, relay) = Relay::start();
    relay.say(b"answer");
    relay.end();
    let (data, end) = read_all(&mut near).await;
    end.unwrap();
    assert_eq!(data, b"answer");
    near.write_all(b"still sending").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(relay.reached.until_end().await, b"still sending");
    relay.over().await.0.unwrap();
}

#[tokio::test]
async fn the_end_of_the_local_stream_finishes_the_wire_and_leaves_the_other_direction_open() {
    let (mut near, relay) = Relay::start();
    near.write_all(b"request").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(relay.reached.until_end().await, b"request");
    relay.say(b"late ");
    relay.say(b"answer");
    relay.end();
    let (data, end) = read_all(&mut near).await;
    end.unwrap();
    assert_eq!(data, b"late answer");
    relay.over().await.0.unwrap();
}

#[tokio::test]
async fn a_wire_that_stops_is_truncated_even_after_our_end() {
    let (mut near, relay) = Relay::start();
    near.write_all(b"request").await.unwrap();
    near.shutdown().await.unwrap();
    relay.reached.until_end().await;
    relay.say(b"part of an ans");
    relay.sent.send(Sent::Stopped).unwrap();
    let (data, end) = read_all(&mut near).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(data, b"part of an ans");
    let (result, ..) = relay.over().await;
    assert!(matches!(result, Err(RelayError::Truncated)), "{result:?}");
}

#[tokio::test]
async fn a_program_that_closes_over_unread_data_is_no_end_and_its_words_are_sent() {
    let (mut near, relay) = Relay::start();
    relay.say(b"never read");
    near.readable().await.unwrap();
    near.write_all(b"all that it wrote").await.unwrap();
    drop(near);
    let (result, data, ended) = relay.over().await;
    assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
    assert_eq!(data, b"all that it wrote");
    assert!(!ended);
}

#[tokio::test]
async fn data_for_a_program_that_is_gone_is_an_error_and_its_words_are_sent() {
    let (mut near, relay) = Relay::start();
    // The wire takes nothing for now.
    relay.leave.forget_permits(LEAVE);
    near.write_all(b"all that it wrote").await.unwrap();
    drop(near);
    relay.say(b"to nobody");
    relay.delivered.notified().await;
    relay.leave.add_permits(LEAVE);
    let (result, data, ended) = relay.over().await;
    assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
    assert_eq!(data, b"all that it wrote");
    assert!(!ended, "what it did not take is known");
}

#[tokio::test]
async fn data_after_the_end_of_a_program_is_an_error() {
    let (mut near, relay) = Relay::start();
    near.write_all(b"all that it wrote").await.unwrap();
    drop(near);
    assert_eq!(relay.reached.until_end().await, b"all that it wrote");
    relay.say(b"to nobody");
    let (result, ..) = relay.over().await;
    assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
}

#[tokio::test]
async fn data_that_a_program_does_not_want_does_not_hold_up_what_it_writes() {
    let (mut near, relay) = Relay::start();
    let reading = socket2::SockRef::from(&near);
    reading.shutdown(Shutdown::Read).unwrap();
    for _ in 0..3 {
        relay.say(b"unwanted");
        relay.delivered.notified().await;
    }
    near.write_all(b"all that it writes").await.unwrap();
    drop(near);
    assert_eq!(relay.reached.until_end().await, b"all that it writes");
    relay.say(b"and unwanted later");
    relay.end();
    relay.over().await.0.unwrap();
}

#[tokio::test]
async fn when_sending_has_failed_the_other_direction_delivers_its_last_words_and_no_end() {
    let (mut near, relay) = Relay::start();
    let hold = relay.closing.clone().acquire_owned().await.unwrap();
    relay.leave.close();
    near.write_all(b"lost").await.unwrap();
    relay.reached.changed.notified().await;
    relay.say(b"last words");
    relay.end();
    near.read_exact(&mut [0; 10]).await.unwrap();
    relay.returned.notified().await;
    let unended = near.try_read(&mut [0]).unwrap_err();
    assert_eq!(unended.kind(), ErrorKind::WouldBlock);
    drop(hold);
    let end = read_all(&mut near).await.1.unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    let (result, data, ended) = relay.over().await;
    assert!(matches!(result, Err(RelayError::Send(_))), "{result:?}");
    assert!(data.is_empty() && !ended);
}
