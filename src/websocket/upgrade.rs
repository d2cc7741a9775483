//! The client's side of the opening handshake (RFC 6455 §4.1).

use std::io;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::{HeaderName, HeaderValue, Uri};
use zeroize::Zeroizing;

/// pveproxy answers in a few hundred bytes; whoever sends more than this without an end is not
/// answering a websocket upgrade.
const MAX_RESPONSE: usize = 16 * 1024;

/// Most headers that a response may have.
const MAX_HEADERS: usize = 64;

/// pveproxy closes a connection whose request head is as long or longer, without a word that says
/// why.
const MAX_REQUEST: usize = 8 * 1024;

/// pveproxy takes no more lines in a request head, the request line among them.
const MAX_REQUEST_LINES: usize = 64;

/// Why a connection did not become a websocket.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// The URL or a header cannot be put into a request. Their values stay out of the message: they
    /// carry the credentials.
    #[error("cannot make the upgrade request: {0}")]
    Request(&'static str),
    /// The connection failed while upgrading.
    #[error("the connection failed during the websocket upgrade: {0}")]
    Io(#[from] io::Error),
    /// The server ended the connection without an answer.
    #[error("the server closed the connection instead of answering the websocket upgrade")]
    Closed,
    /// The server answered with something else than 101.
    #[error("the server refused the websocket upgrade: {status} {reason}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The reason phrase, which is where pveproxy says what is wrong.
        reason: String,
    },
    /// The server's answer is not what RFC 6455 asks for.
    #[error("the server's answer to the websocket upgrade is not one: {0}")]
    Response(&'static str),
}

/// A request to upgrade.
///
/// It holds credentials, so it has no `Debug`, and it is wiped when dropped.
pub struct Request {
    head: Zeroizing<Vec<u8>>,
    accept: String,
}

impl Request {
    /// The request for `url` (`ws://` or `wss://`) with additional `headers`.
    pub fn new<'h>(
        url: &str,
        headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    ) -> Result<Self, UpgradeError> {
        let uri: Uri = url
            .parse()
            .map_err(|_| UpgradeError::Request("the URL is not one"))?;
        let host = uri
            .authority()
            .map(|authority| authority.as_str())
            .map(|text| text.rsplit_once('@').map_or(text, |(_, host)| host))
            .ok_or(UpgradeError::Request("the URL has no host"))?;
        let path = uri
            .path_and_query()
            .ok_or(UpgradeError::Request("the URL is not one"))?
            .as_str();
        let key = generate_key();
        // Written here and not by tungstenite, which shows whole requests to whoever traces it. No
        // more than fits goes in, so that no copy of a credential stays behind when it grows.
        let mut head = Zeroizing::new(Vec::with_capacity(MAX_REQUEST));
        let mut push = |parts: &[&str]| {
            let length: usize = parts.iter().map(|part| part.len()).sum();
            if head.len() + length >= MAX_REQUEST {
                return Err(UpgradeError::Request(
                    "it is longer than the 8 KiB that pveproxy takes",
                ));
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
                .map_err(|_| UpgradeError::Request("a header's name is not one"))?;
            HeaderValue::try_from(value).map_err(|_| {
                UpgradeError::Request("a header's value has characters that HTTP forbids")
            })?;
            if own.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)) {
                return Err(UpgradeError::Request(
                    "a header is given that the upgrade itself needs",
                ));
            }
            push(&[name, ": ", value, "\r\n"])?;
        }
        push(&["\r\n"])?;
        // The last line end is the empty line's, which is none of them.
        if head.iter().filter(|&&byte| byte == b'\n').count() > MAX_REQUEST_LINES + 1 {
            return Err(UpgradeError::Request(
                "it has more than the 64 lines that pveproxy takes",
            ));
        }
        Ok(Self {
            head,
            accept: derive_accept_key(key.as_bytes()),
        })
    }
}

/// A connection after the upgrade.
#[derive(Debug)]
pub struct Upgraded<S> {
    /// The connection.
    pub stream: S,
    /// What the server sent behind its answer: the first bytes of the websocket stream.
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
    loop {
        if let Some(length) = parse(&received, &request.accept)? {
            let early = received.split_off(length);
            return Ok(Upgraded { stream, early });
        }
        if received.len() >= MAX_RESPONSE {
            return Err(UpgradeError::Response("its head is longer than 16 KiB"));
        }
        match stream.read_buf(&mut received).await {
            Ok(0) => return Err(UpgradeError::Closed),
            Ok(_) => {}
            // rustls's word for an end without close_notify; here it says no more than the other.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(UpgradeError::Closed);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Checks a response head (RFC 6455 §4.1); its length, or `None` while it is incomplete.
fn parse(received: &[u8], accept: &str) -> Result<Option<usize>, UpgradeError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(received) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(UpgradeError::Response("it has more than 64 headers"));
        }
        Err(_) => return Err(UpgradeError::Response("it is not HTTP/1.1")),
    };
    let status = response.code.unwrap_or_default();
    if status != 101 {
        let reason = printable(response.reason.unwrap_or_default());
        return Err(UpgradeError::Refused { status, reason });
    }
    // httparse also takes HTTP/1.0, which knows no upgrade.
    if response.version != Some(1) {
        return Err(UpgradeError::Response("it is not HTTP/1.1"));
    }
    let has = |name: &str, wanted: &dyn Fn(&str) -> bool| {
        response.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case(name)
                && std::str::from_utf8(header.value).is_ok_and(|value| wanted(value.trim()))
        })
    };
    if !has("upgrade", &|value| value.eq_ignore_ascii_case("websocket")) {
        return Err(UpgradeError::Response("it has no 'Upgrade: websocket'"));
    }
    if !has("connection", &|value| {
        value
            .split(',')
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
    }) {
        return Err(UpgradeError::Response("it has no 'Connection: Upgrade'"));
    }
    if !has("sec-websocket-accept", &|value| value == accept) {
        return Err(UpgradeError::Response(
            "its Sec-WebSocket-Accept does not belong to our key",
        ));
    }
    if has("sec-websocket-extensions", &|value| !value.is_empty()) {
        return Err(UpgradeError::Response(
            "it turns on an extension that was not asked for",
        ));
    }
    if has("sec-websocket-protocol", &|_| true) {
        return Err(UpgradeError::Response(
            "it chooses a subprotocol that was not asked for",
        ));
    }
    Ok(Some(length))
}

/// A peer's words, made safe for a log line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(512).collect()
}
