//! Requests to the remote's API.

use super::remote::Remote;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pve_tunnel::tls::{Client, Fingerprint, TlsError, TlsStream};
use serde_json::Value;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// For a TCP connection, and for a TLS handshake, as in the connector.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// For a request and its answer. pveproxy takes 3 s to answer 401, and the request for a tunnel waits
/// for the cluster's file system.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A request that takes longer is announced, so that people see what the check waits for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Largest answer, in bytes. The privileges of a token on thousands of paths fit.
const MAX_ANSWER: usize = 4 << 20;

/// Characters of a query's value that need no encoding: RFC 3986, section 2.3.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Why there is no answer, or not the expected one.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("{0}")]
    Http(String),
    #[error("{status} {reason}")]
    Status {
        status: u16,
        /// The reason phrase, in which Proxmox VE reports its errors.
        reason: String,
        /// Details for each parameter.
        errors: Option<Value>,
    },
    #[error("the answer is not JSON with 'data'")]
    NotData,
}

impl ApiError {
    /// The HTTP status, if there was one.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the request may have been executed: there was no answer, or pveproxy has lost that of pvedaemon, for
    /// which it sends a status of AnyEvent::HTTP.
    pub(super) fn is_lost_answer(&self) -> bool {
        self.status()
            .is_none_or(|status| (590..600).contains(&status))
    }

    /// With the details for each parameter.
    pub(super) fn detailed(&self) -> String {
        match self {
            Self::Status {
                errors: Some(Value::Object(errors)),
                ..
            } => {
                let details: Vec<String> = errors
                    .iter()
                    .map(|(name, text)| format!("{name}: {}", text.as_str().unwrap_or_default()))
                    .collect();
                format!("{self}: {}", details.join("; "))
            }
            _ => self.to_string(),
        }
    }
}

/// An answer.
pub(super) struct Answer {
    /// The member `data`.
    pub(super) data: Value,
    /// The remote's clock.
    pub(super) date: Option<SystemTime>,
}

/// What TLS has agreed on.
pub(super) struct Agreed {
    pub(super) cipher: String,
    pub(super) fingerprint: Option<Fingerprint>,
    /// A limit of the cipher.
    pub(super) warning: Option<String>,
}

/// The API at one address of the remote. Each request has a connection of its own.
pub(super) struct Api {
    remote: Remote,
    address: SocketAddr,
    client: Client,
    runtime: Runtime,
    notify: Box<dyn Fn(&str)>,
}

impl Api {
    /// `notify` is called when a request takes long.
    pub(super) fn new(
        remote: &Remote,
        address: SocketAddr,
        runtime: Runtime,
        notify: Box<dyn Fn(&str)>,
    ) -> Result<Self, TlsError> {
        let pin = remote.fingerprint.as_deref().map(str::parse).transpose()?;
        Ok(Self {
            remote: remote.clone(),
            address,
            client: Client::new(pin)?,
            runtime,
            notify,
        })
    }

    /// Connects and ends the connection before a request.
    pub(super) fn probe(&self) -> Result<Agreed, ApiError> {
        let stream = self.runtime.block_on(self.connect(&self.client))?;
        Ok(Agreed {
            cipher: pve_tunnel::tls::describe(&stream),
            fingerprint: stream.agreed().peer,
            warning: stream.limit_warning(),
        })
    }

    /// The fingerprint of the certificate that the remote presents, whatever it is. Sends no request.
    pub(super) fn presented_fingerprint(&self) -> Result<Fingerprint, ApiError> {
        // No certificate has this fingerprint, so the handshake ends with the one that was presented.
        let client = Client::new(Some(Fingerprint::NONE))?;
        match self.runtime.block_on(self.connect(&client)) {
            Err(ApiError::Tls(TlsError::Mismatch(mismatch))) => Ok(mismatch.actual),
            Err(error) => Err(error),
            Ok(_) => Err(ApiError::Http("the certificate was not checked".to_owned())),
        }
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, ApiError> {
        self.request(Method::GET, path, &[])
    }

    pub(super) fn post(&self, path: &str, form: &[(&str, String)]) -> Result<Answer, ApiError> {
        self.request(Method::POST, path, form)
    }

    pub(super) fn delete(&self, path: &str) -> Result<Answer, ApiError> {
        self.request(Method::DELETE, path, &[])
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        form: &[(&str, String)],
    ) -> Result<Answer, ApiError> {
        let pairs: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("/api2/json{path}"))
            .header(
                HOST,
                format!("{}:{}", self.remote.url_host(), self.remote.port),
            )
            .header(
                USER_AGENT,
                concat!("pve-tunnel/", env!("CARGO_PKG_VERSION")),
            );
        if let Some(token) = &self.remote.token {
            request = request.header(AUTHORIZATION, token.reveal());
        }
        if !form.is_empty() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let waiting = format!("Waiting for the target's API: {method} {path}");
        let request = request
            .body(Full::new(Bytes::from(pairs.join("&"))))
            .map_err(|error| ApiError::Http(error.to_string()))?;
        let answer = async {
            let stream = self.connect(&self.client).await?;
            limited(REQUEST_TIMEOUT, exchange(stream, request)).await
        };
        self.runtime.block_on(async {
            let mut answer = pin!(answer);
            match timeout(PATIENCE, &mut answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    (self.notify)(&waiting);
                    answer.await
                }
            }
        })
    }

    async fn connect(&self, client: &Client) -> Result<TlsStream<TcpStream>, ApiError> {
        let once = |client: Client| async move {
            let stream = limited(CONNECT_TIMEOUT, async {
                TcpStream::connect(self.address)
                    .await
                    .map_err(ApiError::Connect)
            });
            let stream = stream.await?;
            limited(CONNECT_TIMEOUT, async {
                Ok(client.handshake(&self.remote.host, stream).await?)
            })
            .await
        };
        match once(client.clone()).await {
            Err(ApiError::Tls(error)) => match client.second_attempt(&error) {
                Some(second) => once(second).await,
                None => Err(error.into()),
            },
            result => result,
        }
    }
}

/// The shortest time of some TCP connections to an address, or why the first one failed.
pub(super) fn round_trip(
    runtime: &Runtime,
    address: SocketAddr,
    attempts: u32,
) -> io::Result<Duration> {
    let mut shortest = Duration::MAX;
    for attempt in 0..attempts {
        let started = Instant::now();
        let connected =
            runtime.block_on(async { timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await });
        match connected {
            Ok(Ok(_)) => shortest = shortest.min(started.elapsed()),
            Ok(Err(error)) if attempt == 0 => return Err(error),
            Err(_) if attempt == 0 => return Err(io::ErrorKind::TimedOut.into()),
            _ => break,
        }
    }
    Ok(shortest)
}

pub(super) fn encoded(value: &str) -> String {
    utf8_percent_encode(value, VALUE).to_string()
}

async fn limited<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    timeout(limit, work)
        .await
        .unwrap_or(Err(ApiError::Timeout(limit)))
}

async fn exchange(
    stream: TlsStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, ApiError> {
    let http = |error: hyper::Error| ApiError::Http(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    let reason = response
        .extensions()
        .get::<hyper::ext::ReasonPhrase>()
        .map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
    let date = response
        .headers()
        .get(DATE)
        .and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| ApiError::Http(error.to_string()))?
        .to_bytes();
    connection.abort();
    let body: Option<Value> = serde_json::from_slice(&body).ok();
    if status != StatusCode::OK {
        return Err(ApiError::Status {
            status: status.as_u16(),
            reason: reason
                .unwrap_or_else(|| status.canonical_reason().unwrap_or_default().to_owned())
                .trim()
                .to_owned(),
            errors: body.and_then(|mut body| Some(body.get_mut("errors")?.take())),
        });
    }
    let data = body.and_then(|mut body| Some(body.get_mut("data")?.take()));
    Ok(Answer {
        data: data.ok_or(ApiError::NotData)?,
        date,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;
    use std::sync::mpsc::channel;
    use tokio::runtime::Builder;

    #[test]
    fn a_request_that_takes_long_is_announced_once() {
        // Accepts connections, and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fingerprint = vec!["00"; 32].join(":");
        let remote = Remote::parse(&format!("host=127.0.0.1,fingerprint={fingerprint}")).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (sender, announced) = channel();
        let notify = Box::new(move |text: &str| sender.send(text.to_owned()).unwrap());
        let api = Api::new(&remote, address, runtime, notify).unwrap();
        assert!(api.get("/version").is_err());
        drop(api);
        let announced: Vec<String> = announced.iter().collect();
        assert_eq!(announced, ["Waiting for the target's API: GET /version"]);
    }
}
