//! The relay between a local socket and a wire that the test plays.

use pve_tunnel::relay::{Counters, Incoming, Local, Outgoing, Received, relay};
use std::future::pending;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Peer;
use std::sync::{Arc, Mutex};
use tokio::net::UnixStream;
use tokio::sync::Notify;

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Data(Vec<u8>),
    Pong,
    Close,
}

/// The sending half of a wire, which owes a pong after the first data and ends the other half by
/// its own end.
struct Sending {
    said: Arc<Mutex<Vec<Said>>>,
    owed: Notify,
    ended: Arc<Notify>,
}

impl Outgoing for Sending {
    const ROOM: usize = 0;
    const MAX: usize = 1;

    async fn send(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut said = self.said.lock().unwrap();
        if said.is_empty() {
            self.owed.notify_one();
        }
        said.push(Said::Data(buffer.to_vec()));
        Ok(())
    }

    async fn control_pending(&mut self) {
        self.owed.notified().await;
    }

    async fn send_control(&mut self) -> io::Result<()> {
        self.said.lock().unwrap().push(Said::Pong);
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.said.lock().unwrap().push(Said::Close);
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
    let said: Arc<Mutex<Vec<Said>>> = Arc::default();
    let ended = Arc::new(Notify::new());
    let sending = Sending {
        said: said.clone(),
        owed: Notify::new(),
        ended: ended.clone(),
    };
    let receiving = Receiving { ended };
    relay(&local, sending, receiving, &Counters::default())
        .await
        .unwrap();
    let said = said.lock().unwrap();
    let at = |wanted: &Said| said.iter().position(|entry| entry == wanted);
    assert_eq!(at(&Said::Close), Some(1001));
    assert_eq!(at(&Said::Pong), Some(1));
}

/// A wire from which nothing comes.
struct Silent;

impl Incoming for Silent {
    const HALF_CLOSE: bool = false;

    async fn next(&mut self) -> io::Result<Received<'_>> {
        pending().await
    }
}

#[tokio::test]
async fn every_byte_is_sent_once_however_its_relay_is_polled() {
    let (mut peer, local) = pair();
    let said: Arc<Mutex<Vec<Said>>> = Arc::default();
    let sending = Sending {
        said: said.clone(),
        owed: Notify::new(),
        ended: Arc::default(),
    };
    let counters = Counters::default();
    let relaying = relay(&local, sending, Silent, &counters);
    tokio::pin!(relaying);
    let data: Vec<u8> = (0..200).collect();
    for byte in &data {
        peer.write_all(&[*byte]).unwrap();
        // Polled a while and left again in the middle of waiting.
        tokio::select! {
            biased;
            result = &mut relaying => panic!("{result:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    while said.lock().unwrap().len() <= data.len() {
        tokio::select! {
            biased;
            result = &mut relaying => panic!("{result:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    let mut expected: Vec<Said> = data.iter().map(|byte| Said::Data(vec![*byte])).collect();
    expected.insert(1, Said::Pong);
    assert_eq!(*said.lock().unwrap(), expected);
}
