//! The relay between a local socket and a fake connection without half-close.

use pve_tunnel::relay::{Counters, Incoming, Local, Outgoing, Received, relay};
use std::future::pending;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Peer;
use std::sync::{Arc, Mutex};
use tokio::net::UnixStream;
use tokio::sync::Notify;

#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Data(Vec<u8>),
    Pong,
    Close,
}

/// The sending half of a connection. A pong is pending after the first data, and the end of this
/// half ends the receiving half.
struct Sending {
    sent: Arc<Mutex<Vec<Sent>>>,
    pong_pending: Notify,
    ended: Arc<Notify>,
}

impl Outgoing for Sending {
    const ROOM: usize = 0;
    const MAX: usize = 1;

    async fn send(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut sent = self.sent.lock().unwrap();
        if sent.is_empty() {
            self.pong_pending.notify_one();
        }
        sent.push(Sent::Data(buffer.to_vec()));
        Ok(())
    }

    async fn control_pending(&mut self) {
        self.pong_pending.notified().await;
    }

    async fn send_control(&mut self) -> io::Result<()> {
        self.sent.lock().unwrap().push(Sent::Pong);
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.sent.lock().unwrap().push(Sent::Close);
        self.ended.notify_one();
        Ok(())
    }
}

struct Receiving {
    ended: Arc<Notify>,
}

impl Incoming for Receiving {
    const HALF_CLOSE: bool = false;

    async fn next(&mut self) -> io::Result<Received<'_>> {
        self.ended.notified().await;
        Ok(Received::Stopped)
    }
}

fn pair() -> (Peer, Local) {
    let (ours, theirs) = Peer::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (theirs, Local::new(UnixStream::from_std(ours).unwrap()))
}

#[tokio::test]
async fn a_pong_does_not_wait_for_a_pause_in_the_data() {
    let (mut peer, local) = pair();
    peer.write_all(&[7; 1000]).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
    let ended = Arc::new(Notify::new());
    let sending = Sending {
        sent: sent.clone(),
        pong_pending: Notify::new(),
        ended: ended.clone(),
    };
    let receiving = Receiving { ended };
    relay(&local, sending, receiving, &Counters::default())
        .await
        .unwrap();
    let sent = sent.lock().unwrap();
    let at = |expected: &Sent| sent.iter().position(|entry| entry == expected);
    assert_eq!(at(&Sent::Close), Some(1001));
    assert_eq!(at(&Sent::Pong), Some(1));
}

/// The receiving half of a connection whose peer sends nothing.
struct Silent;

impl Incoming for Silent {
    const HALF_CLOSE: bool = false;

    async fn next(&mut self) -> io::Result<Received<'_>> {
        pending().await
    }
}

#[tokio::test]
async fn every_byte_is_sent_once_for_every_order_of_polls() {
    let (mut peer, local) = pair();
    let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
    let sending = Sending {
        sent: sent.clone(),
        pong_pending: Notify::new(),
        ended: Arc::default(),
    };
    let counters = Counters::default();
    let relaying = relay(&local, sending, Silent, &counters);
    tokio::pin!(relaying);
    let data: Vec<u8> = (0..200).collect();
    for byte in &data {
        peer.write_all(&[*byte]).unwrap();
        // Polls the relay, then stops while it waits.
        tokio::select! {
            biased;
            result = &mut relaying => panic!("{result:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    while sent.lock().unwrap().len() <= data.len() {
        tokio::select! {
            biased;
            result = &mut relaying => panic!("{result:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    let mut expected: Vec<Sent> = data.iter().map(|byte| Sent::Data(vec![*byte])).collect();
    expected.insert(1, Sent::Pong);
    assert_eq!(*sent.lock().unwrap(), expected);
}
