//! The scripted target.

use pve_tunnel::tls::Fingerprint;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned, SupportedCipherSuite, SupportedProtocolVersion,
};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// A server connection.
pub type Tls = StreamOwned<ServerConnection, TcpStream>;

/// A certificate and its key, made for this test.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pem: String,
    key: PrivatePkcs8KeyDer<'static>,
    provider: CryptoProvider,
}

impl Identity {
    pub fn new() -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let CertifiedKey { cert, key_pair } = generate_simple_self_signed(names).unwrap();
        Self {
            certificate: cert.der().clone(),
            pem: pem::encode(&pem::Pem::new("CERTIFICATE", cert.der().to_vec())),
            key: key_pair.serialize_der().into(),
            provider: default_provider(),
        }
    }

    /// The same for a server that supports these suites only, and prefers the first one.
    pub fn with_suites(self, suites: &[SupportedCipherSuite]) -> Self {
        let provider = CryptoProvider {
            cipher_suites: suites.to_vec(),
            ..default_provider()
        };
        Self { provider, ..self }
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// The certificate as a CA file.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn config(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(self.key.clone_key());
        let mut config = ServerConfig::builder_with_provider(Arc::new(self.provider.clone()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap();
        config.ignore_client_order = true;
        Arc::new(config)
    }
}

/// One HTTP request to upgrade.
pub struct Request {
    pub line: String,
    /// Percent-decoded.
    pub query: HashMap<String, String>,
    /// Lower-case names.
    pub headers: HashMap<String, String>,
    pub stream: Tls,
}

impl Request {
    fn read(mut stream: Tls) -> Option<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let mut lines = BufReader::new(&head[..]).lines().map(Result::unwrap);
        let line = lines.next().unwrap();
        let headers = lines
            .filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_lowercase(), value.trim().to_owned()))
            })
            .collect();
        let query = line
            .split(' ')
            .nth(1)
            .and_then(|path| path.split_once('?'))
            .map(|(_, query)| query)
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| {
                let value = percent_encoding::percent_decode_str(value)
                    .decode_utf8()
                    .unwrap();
                (name.to_owned(), value.into_owned())
            })
            .collect();
        Some(Self {
            line,
            query,
            headers,
            stream,
        })
    }

    /// The `socket` parameter.
    pub fn socket(&self) -> &str {
        self.query.get("socket").map_or("", String::as_str)
    }

    /// Answers with these bytes only.
    pub fn answer(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).unwrap();
        self.stream.flush().unwrap();
    }

    /// Accepts the upgrade. Returns the connection for raw bytes.
    pub fn accept(mut self) -> Tls {
        let accept = derive_accept_key(self.headers["sec-websocket-key"].as_bytes());
        self.answer(&format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        ));
        self.stream
    }

    /// Accepts the upgrade. Returns the connection for websocket messages.
    pub fn websocket(self) -> WebSocket<Tls> {
        WebSocket::from_raw_socket(self.accept(), Role::Server, None)
    }
}

/// Ends a connection as TLS requires it: close_notify, then FIN.
pub fn close_cleanly(mut tls: Tls) {
    tls.conn.send_close_notify();
    let _ = tls.flush();
}

/// A target that listens on a fresh loopback port for as long as the test runs.
pub struct Target {
    pub address: SocketAddr,
    pub fingerprint: Fingerprint,
    /// The request lines received so far.
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Target {
    /// Serves every upgrade request with `script`, in a thread of its own.
    pub fn new(script: impl Fn(Request) + Send + Sync + 'static) -> Self {
        Self::with_identity(&Identity::new(), rustls::ALL_VERSIONS, script)
    }

    /// The same with a given identity and TLS versions.
    pub fn with_identity(
        identity: &Identity,
        versions: &[&'static SupportedProtocolVersion],
        script: impl Fn(Request) + Send + Sync + 'static,
    ) -> Self {
        Self::at([127, 0, 0, 1].into(), identity, versions, script)
    }

    /// The same at another address of this node.
    pub fn at(
        address: IpAddr,
        identity: &Identity,
        versions: &[&'static SupportedProtocolVersion],
        script: impl Fn(Request) + Send + Sync + 'static,
    ) -> Self {
        let config = identity.config(versions);
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = requests.clone();
        let script = Arc::new(script);
        let address = Self::raw_at(address, move |tcp| {
            let connection = ServerConnection::new(config.clone()).unwrap();
            if let Some(request) = Request::read(StreamOwned::new(connection, tcp)) {
                seen.lock().unwrap().push(request.line.clone());
                script(request);
            }
        });
        Self {
            address,
            fingerprint: identity.fingerprint(),
            requests,
        }
    }

    /// Passes every TCP connection to `script` before any byte was sent.
    pub fn raw(script: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
        Self::raw_at([127, 0, 0, 1].into(), script)
    }

    fn raw_at(address: IpAddr, script: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(script);
        thread::spawn(move || {
            for tcp in listener.incoming() {
                let script = script.clone();
                thread::spawn(move || script(tcp.unwrap()));
            }
        });
        address
    }

    pub fn url(&self, rest: &str) -> String {
        format!("wss://{}/mtunnelwebsocket?{rest}", self.address)
    }
}

/// The worker's end of a control connection: answers each line with the result of `answer`, until
/// the client closes the connection or sends the command "disconnect".
pub fn serve_worker(
    request: Request,
    mut answer: impl FnMut(&serde_json::Value) -> serde_json::Value,
) {
    let mut websocket = request.websocket();
    let mut received = Vec::new();
    loop {
        match websocket.read() {
            Ok(Message::Binary(bytes)) => received.extend_from_slice(&bytes),
            Ok(Message::Close(_)) | Err(_) => return,
            Ok(_) => continue,
        }
        while let Some(end) = received.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = received.drain(..=end).collect();
            let command: serde_json::Value = serde_json::from_slice(&line).unwrap();
            if command["cmd"] == "disconnect" {
                return;
            }
            let mut reply = answer(&command).to_string();
            reply.push('\n');
            if websocket.send(Message::binary(reply.into_bytes())).is_err() {
                return;
            }
        }
    }
}

/// The answers of a stock worker to `version` and `ticket`.
pub fn stock_answer(command: &serde_json::Value) -> serde_json::Value {
    match command["cmd"].as_str() {
        Some("version") => serde_json::json!({ "success": true, "api": 2, "age": 0 }),
        Some("ticket") => serde_json::json!({ "success": true, "ticket": "TICKET=+ 1/2%" }),
        _ => serde_json::json!({ "success": false, "msg": "unknown command" }),
    }
}
