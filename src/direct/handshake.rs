//! The handshake of a direct connection: the listener sends a challenge, the source proves that it
//! has the session key and names the forward, the listener answers with a status.
//!
//! | from | bytes |
//! |---|---|
//! | listener | `pvetun`, protocol number (u16, big endian), nonce (32 bytes) |
//! | source | forward number (u32, big endian), HMAC-SHA-256(session key, nonce ‖ forward number) |
//! | listener | status: [`CONNECTED`], [`NO_SOCKET`] or [`SECOND_HEARTBEAT`] |
//!
//! A source that sends a wrong proof gets no status: the listener closes the connection.

use super::key::{self, LEN, SessionKey};
use super::{OLDEST_PROTOCOL, PROTOCOL};
use std::io;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: &[u8; 6] = b"pvetun";

/// Magic, protocol number, nonce.
const CHALLENGE: usize = MAGIC.len() + 2 + LEN;

/// Forward number, proof.
const RESPONSE: usize = 4 + LEN;

/// Status: from here on the bytes are the forward's.
pub(crate) const CONNECTED: u8 = 0;

/// Status: the socket that the forward stands for does not accept a connection.
pub(crate) const NO_SOCKET: u8 = 1;

/// Status: the migration already has a heartbeat, which is alive.
pub(crate) const SECOND_HEARTBEAT: u8 = 2;

/// Why the listener refuses a connection.
#[derive(Debug, Error)]
pub(crate) enum HandshakeRefusal {
    /// The connection ended before the handshake did.
    #[error("the handshake was cut off: {0}")]
    Malformed(#[from] io::Error),
    /// The proof is wrong.
    #[error("the handshake has a proof of another session key")]
    Key,
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
    #[error("the listener uses protocol {0}, which this node does not support")]
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
    /// A status of another version.
    #[error("the listener answered with the unknown status {0}")]
    Status(u8),
}

/// The listener's first half: sends the challenge and returns the number of the requested forward.
pub(crate) async fn challenge<S>(stream: &mut S, key: &SessionKey) -> Result<u32, HandshakeRefusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut nonce = [0; LEN];
    key::random(&mut nonce)?;
    let mut challenge = [0; CHALLENGE];
    let (magic, rest) = challenge.split_at_mut(MAGIC.len());
    let (protocol, nonce_part) = rest.split_at_mut(2);
    magic.copy_from_slice(MAGIC);
    protocol.copy_from_slice(&PROTOCOL.to_be_bytes());
    nonce_part.copy_from_slice(&nonce);
    stream.write_all(&challenge).await?;
    stream.flush().await?;

    let mut number = [0; 4];
    let mut proof = [0; LEN];
    stream.read_exact(&mut number).await?;
    stream.read_exact(&mut proof).await?;
    let number = u32::from_be_bytes(number);
    if !key.verify(&nonce, number, &proof) {
        return Err(HandshakeRefusal::Key);
    }
    Ok(number)
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
    number: u32,
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
    if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&protocol) {
        return Err(HandshakeError::Protocol(protocol));
    }
    stream.read_exact(&mut nonce).await?;

    let mut response = [0; RESPONSE];
    response[..4].copy_from_slice(&number.to_be_bytes());
    response[4..].copy_from_slice(&key.prove(&nonce, number));
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
        other => Err(HandshakeError::Status(other)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::duplex;

    #[tokio::test]
    async fn both_ends_agree() {
        let key = SessionKey::generate().unwrap();
        let (mut listener, mut source) = duplex(64);
        let (wanted, answered) = tokio::join!(
            async {
                let number = challenge(&mut listener, &key).await.unwrap();
                send_status(&mut listener, CONNECTED).await.unwrap();
                number
            },
            respond(&mut source, &key, 0xdead_beef)
        );
        assert_eq!(wanted, 0xdead_beef);
        answered.unwrap();
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
                let refusal = challenge(&mut listener, &key).await.unwrap_err();
                drop(listener);
                refusal
            },
            respond(&mut source, &other, 1)
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
            let error = respond(&mut source, &key, 1).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
