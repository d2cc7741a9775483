//! The handshake of a direct connection: the listener sends a challenge, the source proves that it
//! has the session key and names the forward, the listener answers with a status.
//!
//! | from | bytes |
//! |---|---|
//! | listener | `pvetun`, protocol number (u16, big endian), nonce (32 bytes) |
//! | source | the [`Purpose`] of the connection, HMAC-SHA-256(session key, nonce ‖ purpose) |
//! | listener | status: [`CONNECTED`], [`NO_SOCKET`], [`SECOND_HEARTBEAT`] or, for lanes, [`NO_STREAM`] or [`STREAM_OVER`] |
//!
//! A source that sends a wrong proof gets no status: the listener closes the connection.

use super::key::{self, LEN, SessionKey};
use super::{HEARTBEAT, LANES_PROTOCOL};
use std::io;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: &[u8; 6] = b"pvetun";

/// Magic, protocol number, nonce.
const CHALLENGE: usize = MAGIC.len() + 2 + LEN;

/// Bytes of a stream's ID.
const STREAM_ID: usize = 16;

/// A lane that begins its stream, and one that joins it.
const BEGINS: u8 = 0;
const JOINS: u8 = 1;

/// Status: from here on the bytes are the forward's.
pub(crate) const CONNECTED: u8 = 0;

/// Status: the socket that the forward stands for does not accept a connection.
pub(crate) const NO_SOCKET: u8 = 1;

/// Status: the migration already has a heartbeat, which is alive.
pub(crate) const SECOND_HEARTBEAT: u8 = 2;

/// Status: a lane joins a stream that does not exist here, or has failed.
pub(crate) const NO_STREAM: u8 = 3;

/// Status: a lane joins a stream that is complete at the listener.
pub(crate) const STREAM_OVER: u8 = 4;

/// The ID of a stream: random, and unique within a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamId([u8; STREAM_ID]);

impl StreamId {
    /// A new random ID.
    pub(crate) fn generate() -> io::Result<Self> {
        let mut id = [0; STREAM_ID];
        key::random(&mut id)?;
        Ok(Self(id))
    }
}

/// What the source wants a connection to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Purpose {
    /// The number of the forward; 0 is the heartbeat.
    pub(crate) number: u32,
    /// Only from protocol 2 on, and not for the heartbeat.
    pub(crate) lane: Option<LaneRequest>,
}

/// The stream of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneRequest {
    pub(crate) stream: StreamId,
    /// Whether the stream must exist. If not, it is created, unless it exists.
    pub(crate) joins: bool,
}

impl Purpose {
    /// The heartbeat of the migration.
    pub(crate) const HEARTBEAT: Self = Self {
        number: HEARTBEAT,
        lane: None,
    };

    /// The bytes in a handshake: the number as 4 bytes, big endian. From protocol 2 on, the stream's ID
    /// as 16 bytes and a byte, 0 for a lane that begins its stream, 1 for one that joins it. These are
    /// zero for the heartbeat.
    fn encode(&self, protocol: u16) -> Vec<u8> {
        let mut bytes = self.number.to_be_bytes().to_vec();
        if protocol >= LANES_PROTOCOL {
            let zero = [0; STREAM_ID];
            bytes.extend_from_slice(self.lane.as_ref().map_or(&zero, |lane| &lane.stream.0));
            bytes.push(match self.lane {
                Some(LaneRequest { joins: true, .. }) => JOINS,
                _ => BEGINS,
            });
        }
        bytes
    }

    /// The number of those bytes.
    fn length(protocol: u16) -> usize {
        match protocol >= LANES_PROTOCOL {
            true => 4 + STREAM_ID + 1,
            false => 4,
        }
    }

    /// Reads the bytes; none if they are malformed.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk()?;
        let number = u32::from_be_bytes(*number);
        let lane = match rest.split_first_chunk() {
            _ if number == HEARTBEAT => None,
            None => None,
            Some((id, [flag @ (BEGINS | JOINS)])) => Some(LaneRequest {
                stream: StreamId(*id),
                joins: *flag == JOINS,
            }),
            Some(_) => return None,
        };
        Some(Self { number, lane })
    }
}

/// Why the listener refuses a connection.
#[derive(Debug, Error)]
pub(crate) enum HandshakeRefusal {
    /// The connection ended before the handshake did.
    #[error("the handshake was cut off: {0}")]
    Malformed(#[from] io::Error),
    /// The proof is wrong.
    #[error("the handshake has a proof of another session key")]
    Key,
    /// The source has proven the key, and sent what this version does not know.
    #[error("the handshake requests an unknown kind of connection")]
    Purpose,
}

/// Why the handshake failed at the source.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The connection ended or broke.
    #[error("the handshake failed: {0}")]
    Io(#[from] io::Error),
    /// Another program listens there.
    #[error("the program that listens there is not a pve-tunnel listener")]
    Magic,
    /// Not the protocol that was agreed on.
    #[error("the listener uses protocol {0}, which was not agreed on")]
    Protocol(u16),
    /// The listener closed the connection instead of sending a status.
    #[error("the listener refused the handshake")]
    Refused,
    /// The target's own socket cannot be reached.
    #[error("the target's socket does not accept a connection")]
    NoSocket,
    /// Another connection is the heartbeat of this migration.
    #[error("the listener already has a heartbeat of this migration")]
    SecondHeartbeat,
    /// The stream that the lane would join has failed at the target, or has never existed.
    #[error("the listener does not have the stream any more")]
    NoStream,
    /// The stream that the lane would join is complete at the target.
    #[error("the stream is complete at the target")]
    StreamOver,
    /// A status of another version.
    #[error("the listener answered with the unknown status {0}")]
    Status(u8),
}

/// The listener's first half: sends the challenge and returns what the connection is for.
pub(crate) async fn challenge<S>(
    stream: &mut S,
    key: &SessionKey,
    version: u16,
) -> Result<Purpose, HandshakeRefusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut nonce = [0; LEN];
    key::random(&mut nonce)?;
    let mut challenge = [0; CHALLENGE];
    let (magic, rest) = challenge.split_at_mut(MAGIC.len());
    let (protocol, nonce_part) = rest.split_at_mut(2);
    magic.copy_from_slice(MAGIC);
    protocol.copy_from_slice(&version.to_be_bytes());
    nonce_part.copy_from_slice(&nonce);
    stream.write_all(&challenge).await?;
    stream.flush().await?;

    let mut purpose = vec![0; Purpose::length(version)];
    let mut proof = [0; LEN];
    stream.read_exact(&mut purpose).await?;
    stream.read_exact(&mut proof).await?;
    if !key.verify(&nonce, &purpose, &proof) {
        return Err(HandshakeRefusal::Key);
    }
    Purpose::decode(&purpose).ok_or(HandshakeRefusal::Purpose)
}

/// The listener's second half: a status.
pub(crate) async fn send_status<S>(stream: &mut S, status: u8) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    stream.write_all(&[status]).await?;
    stream.flush().await
}

/// The source's end. After it, the bytes of the stream belong to the forward.
pub(crate) async fn respond<S>(
    stream: &mut S,
    key: &SessionKey,
    purpose: Purpose,
    version: u16,
) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut magic = [0; MAGIC.len()];
    let mut protocol = [0; 2];
    let mut nonce = [0; LEN];
    stream.read_exact(&mut magic).await?;
    if magic != *MAGIC {
        return Err(HandshakeError::Magic);
    }
    stream.read_exact(&mut protocol).await?;
    let protocol = u16::from_be_bytes(protocol);
    if protocol != version {
        return Err(HandshakeError::Protocol(protocol));
    }
    stream.read_exact(&mut nonce).await?;

    let mut response = purpose.encode(version);
    let proof = key.prove(&nonce, &response);
    response.extend_from_slice(&proof);
    stream.write_all(&response).await?;
    stream.flush().await?;

    let mut status = [0];
    match stream.read_exact(&mut status).await {
        Ok(_) => {}
        // On clear TCP a listener resets a connection that it refuses.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Err(HandshakeError::Refused);
        }
        Err(error) => return Err(error.into()),
    }
    match status[0] {
        CONNECTED => Ok(()),
        NO_SOCKET => Err(HandshakeError::NoSocket),
        SECOND_HEARTBEAT => Err(HandshakeError::SecondHeartbeat),
        NO_STREAM => Err(HandshakeError::NoStream),
        STREAM_OVER => Err(HandshakeError::StreamOver),
        other => Err(HandshakeError::Status(other)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::duplex;

    fn forward(number: u32) -> Purpose {
        Purpose { number, lane: None }
    }

    #[tokio::test]
    async fn both_ends_agree() {
        let key = SessionKey::generate().unwrap();
        let lane = |joins| Purpose {
            number: 7,
            lane: Some(LaneRequest {
                stream: StreamId([5; STREAM_ID]),
                joins,
            }),
        };
        for (version, purpose) in [
            (1, forward(0xdead_beef)),
            (1, Purpose::HEARTBEAT),
            (2, Purpose::HEARTBEAT),
            (2, lane(false)),
            (2, lane(true)),
        ] {
            let (mut listener, mut source) = duplex(64);
            let (wanted, answered) = tokio::join!(
                async {
                    let wanted = challenge(&mut listener, &key, version).await.unwrap();
                    send_status(&mut listener, CONNECTED).await.unwrap();
                    wanted
                },
                respond(&mut source, &key, purpose, version)
            );
            assert_eq!(wanted, purpose);
            answered.unwrap();
        }
    }

    #[test]
    fn an_unknown_kind_of_lane_is_refused() {
        let mut bytes = Purpose {
            number: 7,
            lane: Some(LaneRequest {
                stream: StreamId([5; STREAM_ID]),
                joins: true,
            }),
        }
        .encode(2);
        *bytes.last_mut().unwrap() = 2;
        assert_eq!(Purpose::decode(&bytes), None);
    }

    #[tokio::test]
    async fn another_key_is_refused_without_a_status() {
        let (key, other) = (
            SessionKey::generate().unwrap(),
            SessionKey::generate().unwrap(),
        );
        let (mut listener, mut source) = duplex(64);
        let (refusal, answered) = tokio::join!(
            async {
                let refusal = challenge(&mut listener, &key, 1).await.unwrap_err();
                drop(listener);
                refusal
            },
            respond(&mut source, &other, forward(1), 1)
        );
        assert!(matches!(refusal, HandshakeRefusal::Key));
        assert!(matches!(answered, Err(HandshakeError::Refused)));
    }

    #[tokio::test]
    async fn a_peer_that_is_not_a_listener_is_reported() {
        let key = SessionKey::generate().unwrap();
        for (bytes, expected) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "not a pve-tunnel listener"),
            (b"pvetun\x01\x00", "protocol 256"),
            (b"pvet", "handshake failed"),
        ] {
            let (mut listener, mut source) = duplex(64);
            listener.write_all(bytes).await.unwrap();
            drop(listener);
            let error = respond(&mut source, &key, forward(1), 1).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
