//! The hello of a direct connection: the listener asks, the source proves that it knows the session
//! key and says which forward it wants, the listener says how that went.
//!
//! | from | bytes |
//! |---|---|
//! | listener | `pvetun`, protocol number (u16, big endian), nonce (32 bytes) |
//! | source | forward number (u32, big endian), HMAC-SHA-256(session key, nonce ‖ forward number) |
//! | listener | status: [`CONNECTED`] or [`NO_SOCKET`] |
//!
//! Whoever gives a wrong answer gets none.

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

/// Status: the socket that the forward stands for takes no connection.
pub(crate) const NO_SOCKET: u8 = 1;

/// Why the listener refuses.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    /// The connection ended within the hello.
    #[error("the hello broke off: {0}")]
    Malformed(#[from] io::Error),
    /// The proof is wrong.
    #[error("the hello proves nothing: another session key")]
    Key,
}

/// Why the source gives up.
#[derive(Debug, Error)]
pub enum HelloError {
    /// The connection ended or broke.
    #[error("the hello failed: {0}")]
    Io(#[from] io::Error),
    /// Something else listens there.
    #[error("what listens there is no pve-tunnel listener")]
    Magic,
    /// Another protocol than the one agreed on.
    #[error("the listener speaks protocol {0}, which this node does not")]
    Protocol(u16),
    /// The listener closed the connection instead of a status.
    #[error("the listener refused the hello")]
    Refused,
    /// The target's own socket cannot be reached.
    #[error("the target's socket takes no connection")]
    NoSocket,
    /// A status of another version.
    #[error("the listener answered with the unknown status {0}")]
    Status(u8),
}

/// The listener's first half: asks, and returns the number of the forward that is wanted.
pub(crate) async fn challenge<S>(stream: &mut S, key: &SessionKey) -> Result<u32, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut nonce = [0; LEN];
    key::random(&mut nonce)?;
    let mut challenge = [0; CHALLENGE];
    let (magic, rest) = challenge.split_at_mut(MAGIC.len());
    let (protocol, place) = rest.split_at_mut(2);
    magic.copy_from_slice(MAGIC);
    protocol.copy_from_slice(&PROTOCOL.to_be_bytes());
    place.copy_from_slice(&nonce);
    stream.write_all(&challenge).await?;
    stream.flush().await?;

    let mut number = [0; 4];
    let mut proof = [0; LEN];
    stream.read_exact(&mut number).await?;
    stream.read_exact(&mut proof).await?;
    let number = u32::from_be_bytes(number);
    if !key.verify(&nonce, number, &proof) {
        return Err(Refusal::Key);
    }
    Ok(number)
}

/// The listener's second half.
pub(crate) async fn answer<S>(stream: &mut S, status: u8) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    stream.write_all(&[status]).await?;
    stream.flush().await
}

/// The source's side, to the moment from which on the stream is the forward's.
pub(crate) async fn respond<S>(
    stream: &mut S,
    key: &SessionKey,
    number: u32,
) -> Result<(), HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut magic = [0; MAGIC.len()];
    let mut protocol = [0; 2];
    let mut nonce = [0; LEN];
    stream.read_exact(&mut magic).await?;
    if magic != *MAGIC {
        return Err(HelloError::Magic);
    }
    stream.read_exact(&mut protocol).await?;
    let protocol = u16::from_be_bytes(protocol);
    if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&protocol) {
        return Err(HelloError::Protocol(protocol));
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
        // A listener on clear TCP resets what it does not let in.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Err(HelloError::Refused);
        }
        Err(error) => return Err(error.into()),
    }
    match status[0] {
        CONNECTED => Ok(()),
        NO_SOCKET => Err(HelloError::NoSocket),
        other => Err(HelloError::Status(other)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::duplex;

    #[tokio::test]
    async fn both_sides_agree() {
        let key = SessionKey::generate().unwrap();
        let (mut listener, mut source) = duplex(64);
        let (wanted, answered) = tokio::join!(
            async {
                let number = challenge(&mut listener, &key).await.unwrap();
                answer(&mut listener, CONNECTED).await.unwrap();
                number
            },
            respond(&mut source, &key, 0xdead_beef)
        );
        assert_eq!(wanted, 0xdead_beef);
        answered.unwrap();
    }

    #[tokio::test]
    async fn another_key_is_refused_without_a_word() {
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
        assert!(matches!(refusal, Refusal::Key));
        assert!(matches!(answered, Err(HelloError::Refused)));
    }

    #[tokio::test]
    async fn what_is_no_listener_is_said() {
        let key = SessionKey::generate().unwrap();
        for (bytes, expected) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "no pve-tunnel listener"),
            (b"pvetun\x01\x00", "protocol 256"),
            (b"pvet", "hello failed"),
        ] {
            let (mut listener, mut source) = duplex(64);
            listener.write_all(bytes).await.unwrap();
            drop(listener);
            let error = respond(&mut source, &key, 1).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
