//! A receiver as its fuzz target calls it: with fixed keys, from a peer that sends whatever it wants.

use super::keys::fixed::{FixedKeys, secrets, suites};
use super::seal::Sealer;
use super::{Opener, Receiver, Sender, is_tls13};
use rustls::{ContentType, Error, Side};
use std::future::poll_fn;
use tokio::io::{AsyncWriteExt, duplex};

/// A key update without a request.
const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];

/// Receives these records, then `rest`, in pieces of at most `step` bytes. A record has a type and a
/// payload; none stands for a key update, after which the peer uses the next key. Returns the received
/// data, and whether its end was announced.
pub(crate) async fn receive(
    suite: usize,
    records: &[Option<(u8, &[u8])>],
    rest: &[u8],
    step: usize,
) -> Result<(Vec<u8>, bool), Error> {
    let suites = suites();
    let suite = suites[suite % suites.len()];
    let (mut connection, mut peer) = duplex(step.max(1));
    let (mut stream, mut sealer) = (Vec::new(), Sealer::new(suite, 0, secrets(suite))?);
    for record in records {
        let (kind, payload) = record.unwrap_or((ContentType::Handshake.into(), KEY_UPDATE));
        let start = stream.len();
        stream.resize(start + sealer.before(), 0);
        stream.extend(payload);
        stream.resize(stream.len() + sealer.after(), 0);
        sealer.seal(ContentType::from(kind), &mut stream[start..])?;
        if record.is_none() && is_tls13(suite) {
            sealer = Sealer::new(suite, 0, secrets(suite))?;
        }
    }
    stream.extend(rest);

    let opener = Opener::new(suite, Side::Client, 0, secrets(suite))?;
    let keys = (0, secrets(suite));
    let mut sender = Sender::new(suite, String::new(), keys, Box::new(FixedKeys(suite)))?;
    let mut receiver = Receiver::new(Vec::new(), opener);
    let mut received = Vec::new();
    let receive = async {
        loop {
            let data = poll_fn(|context| receiver.poll_data(&mut connection, &mut sender, context));
            match data.await {
                Ok(true) => {
                    let (buffer, places) = receiver.take_all();
                    received.extend(places.iter().flat_map(|place| &buffer[place.clone()]));
                }
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    };
    let send = async {
        // Ends early if the receiver does.
        let _ = peer.write_all(&stream).await;
        drop(peer);
        std::future::pending::<()>().await;
    };
    let announced = tokio::select! {
        announced = receive => announced,
        () = send => false,
    };
    Ok((received, announced))
}
