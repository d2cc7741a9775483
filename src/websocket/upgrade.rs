//! The client's side of the opening handshake (RFC 6455 §4.1).

use crate::scalar::one_line;
use std::borrow::Cow;
use std::{io, str};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::{HeaderName, HeaderValue, Uri};
use zeroize::Zeroizing;

/// Longest head of a response, in bytes, with the informational responses before it. pveproxy answers
/// in a few hundred bytes.
const MAX_RESPONSE: usize = 16 * 1024;

/// Most informational responses (1xx) before the final one. A proxy sends one or two of them.
const MAX_INFORMATIONAL: usize = 16;

/// Most headers of a response.
const MAX_HEADERS: usize = 64;

/// Length of a request head that pveproxy does not accept any more, in bytes. It then closes the
/// connection without a reason.
const MAX_REQUEST: usize = 8 * 1024;

/// Most lines of a request head that pveproxy accepts, including the request line.
const MAX_REQUEST_LINES: usize = 64;

/// Why an upgrade failed.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// The URL or a header cannot be part of a request. The message does not contain their values, because
    /// they hold credentials.
    #[error("cannot make the upgrade request: {0}")]
    Request(String),
    /// The connection failed during the upgrade.
    #[error("the connection failed during the websocket upgrade: {0}")]
    Io(#[from] io::Error),
    /// The server ended the connection without an answer.
    #[error("the server closed the connection instead of answering the websocket upgrade")]
    Closed,
    /// The server answered with another status than 101.
    #[error("the server refused the websocket upgrade: {status} {reason}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The reason phrase, where pveproxy reports the cause.
        reason: String,
    },
    /// The server's answer does not follow RFC 6455.
    #[error("the server's answer to the websocket upgrade is invalid: {0}")]
    Response(String),
}

fn request_error(reason: &str) -> UpgradeError {
    UpgradeError::Request(reason.to_owned())
}

fn response_error(reason: &str) -> UpgradeError {
    UpgradeError::Response(reason.to_owned())
}

/// An upgrade request.
///
/// It holds credentials: it does not implement `Debug`, and it is wiped when dropped.
pub struct Request {
    head: Zeroizing<Vec<u8>>,
    accept: String,
}

impl Request {
    /// A request for `url` (`ws://` or `wss://`) with additional `headers`.
    pub fn new<'h>(
        url: &str,
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    ) -> Result<Self, UpgradeError> {
        let uri: Uri = url.parse().map_err(|_| request_error("it is not a URL"))?;
        let host = uri
            .authority()
            .map(|authority| authority.as_str())
            .map(|text| text.rsplit_once('@').map_or(text, |(_, host)| host))
            .ok_or(request_error("the URL has no host"))?;
        let path = uri
            .path_and_query()
            .ok_or(request_error("it is not a URL"))?
            .as_str();
        let key = generate_key();
        // Written here and not by tungstenite, which logs whole requests at trace level. The buffer never
        // grows, because growing would leave an unwiped copy of a credential behind.
        let mut head = Zeroizing::new(Vec::with_capacity(MAX_REQUEST));
        let mut push = |parts: &[&str]| {
            let length: usize = parts.iter().map(|part| part.len()).sum();
            if head.len() + length >= MAX_REQUEST {
                return Err(UpgradeError::Request(format!(
                    "it is longer than the {} KiB that pveproxy accepts",
                    MAX_REQUEST >> 10
                )));
            }
            parts
                .iter()
                .for_each(|part| head.extend_from_slice(part.as_bytes()));
            Ok(())
        };
        push(&["GET ", path, " HTTP/1.1\r\n"])?;
        let own = [
            ("Host", host),
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key.as_str()),
        ];
        for (name, value) in own {
            push(&[name, ": ", value, "\r\n"])?;
        }
        for (name, value) in headers {
            HeaderName::try_from(name)
                .map_err(|_| request_error("a header has an invalid name"))?;
            HeaderValue::try_from(value)
                .map_err(|_| request_error("a header's value has characters that HTTP forbids"))?;
            if own.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)) {
                return Err(request_error(
                    "a given header is one that the upgrade itself sets",
                ));
            }
            push(&[name, ": ", value, "\r\n"])?;
        }
        push(&["\r\n"])?;
        // The last line end is the empty line's, which is none of them.
        if head.iter().filter(|&&byte| byte == b'\n').count() > MAX_REQUEST_LINES + 1 {
            return Err(UpgradeError::Request(format!(
                "it has more than the {MAX_REQUEST_LINES} lines that pveproxy accepts"
            )));
        }
        Ok(Self {
            head,
            accept: derive_accept_key(key.as_bytes()),
        })
    }
}

/// An upgraded connection.
#[derive(Debug)]
pub struct Upgraded<S> {
    /// The connection.
    pub stream: S,
    /// Bytes that the server sent after its answer: the beginning of the websocket stream.
    pub early: Vec<u8>,
}

/// Sends `request` over `stream` and waits for the answer. The caller sets the time limit.
pub async fn upgrade<S>(mut stream: S, request: &Request) -> Result<Upgraded<S>, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&request.head).await?;
    stream.flush().await?;
    let mut received = Vec::with_capacity(1024);
    let (mut start, mut informational) = (0, 0);
    loop {
        match parse(&received[start..], &request.accept)? {
            Head::Switching(length) => {
                let early = received.split_off(start + length);
                return Ok(Upgraded { stream, early });
            }
            Head::Informational(_) if informational == MAX_INFORMATIONAL => {
                return Err(UpgradeError::Response(format!(
                    "it follows more than {MAX_INFORMATIONAL} informational responses"
                )));
            }
            Head::Informational(length) => {
                start += length;
                informational += 1;
                continue;
            }
            Head::Incomplete => {}
        }
        if received.len() >= MAX_RESPONSE {
            return Err(UpgradeError::Response(format!(
                "its head is longer than {} KiB",
                MAX_RESPONSE >> 10
            )));
        }
        match stream.read_buf(&mut received).await {
            Ok(0) => return Err(UpgradeError::Closed),
            Ok(_) => {}
            // An end without close_notify. Here it means the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(UpgradeError::Closed);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the received bytes begin with, and its length in bytes.
enum Head {
    /// A part of a response head.
    Incomplete,
    /// An informational response, which a client has to accept before the final one (RFC 9110 §15.2).
    Informational(usize),
    /// The response 101, as RFC 6455 requires it.
    Switching(usize),
}

/// Checks a response head (RFC 6455 §4.1). httparse and not tungstenite reads it, because tungstenite
/// drops the reason phrase.
fn parse(received: &[u8], accept: &str) -> Result<Head, UpgradeError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(received) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(Head::Incomplete),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(UpgradeError::Response(format!(
                "it has more than {MAX_HEADERS} headers"
            )));
        }
        Err(_) => return Err(response_error("it is not HTTP/1.1")),
    };
    match response.code.unwrap_or_default() {
        101 => {}
        100..200 => return Ok(Head::Informational(length)),
        status => {
            let reason = one_line(&reason(received));
            return Err(UpgradeError::Refused { status, reason });
        }
    }
    // httparse also accepts HTTP/1.0, which has no upgrade.
    if response.version != Some(1) {
        return Err(response_error("it is not HTTP/1.1"));
    }
    let has = |name: &str, wanted: &dyn Fn(&[u8]) -> bool| {
        let mut named = response
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case(name));
        named.any(|header| wanted(header.value.trim_ascii()))
    };
    if !has("upgrade", &|value| value.eq_ignore_ascii_case(b"websocket")) {
        return Err(response_error("it has no 'Upgrade: websocket'"));
    }
    if !has("connection", &|value| {
        value
            .split(|&byte| byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    }) {
        return Err(response_error("it has no 'Connection: Upgrade'"));
    }
    if !has("sec-websocket-accept", &|value| value == accept.as_bytes()) {
        return Err(response_error(
            "its Sec-WebSocket-Accept does not match the key",
        ));
    }
    // Some proxies add these headers without a value, which selects nothing.
    if has("sec-websocket-extensions", &|value| !value.is_empty()) {
        return Err(response_error(
            "it enables an extension that was not requested",
        ));
    }
    if has("sec-websocket-protocol", &|value| !value.is_empty()) {
        return Err(response_error(
            "it selects a subprotocol that was not requested",
        ));
    }
    Ok(Head::Switching(length))
}

/// The reason phrase of a complete response head. httparse returns only those in ASCII. Bytes that are
/// not UTF-8 are taken as ISO-8859-1, which HTTP once specified for them (RFC 2616 §2.2).
fn reason(head: &[u8]) -> Cow<'_, str> {
    const BEFORE: usize = "HTTP/1.1 401 ".len();
    let line = head
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty());
    let bytes = line.and_then(|line| line.get(BEFORE..)).unwrap_or_default();
    match str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}
