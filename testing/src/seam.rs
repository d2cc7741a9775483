//! A target whose worker has a seam, and a connector that has negotiated a plane with it.

use crate::bridge::Bridge;
use crate::connector::{Connector, Finished, target_data};
use crate::listener::Listener;
use crate::target::{Request, Target, serve_worker, stock_answer};
use pve_tunnel::direct::message::Stat;
use serde_json::{Value, json};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tungstenite::Message;

/// Much longer than any step of a test takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Starts the listener for a request to open one.
type Start = dyn Fn(Value) -> Listener + Send + Sync;

/// Answers a request in place of the seam. The second argument returns the seam's own answer.
type Script = dyn Fn(&Value, &dyn Fn() -> Value) -> Value + Send + Sync;

/// Answers a command of the worker; none for the answer of a stock worker.
type Worker = dyn Fn(&Value) -> Option<Value> + Send + Sync;

/// The seam of a target, with the listener that it has opened.
#[derive(Clone)]
pub struct Seam {
    pub listener: Arc<Mutex<Option<Listener>>>,
    /// Every line that the worker received.
    commands: Arc<Mutex<Vec<Value>>>,
    start: Arc<Start>,
    script: Arc<Script>,
    worker: Arc<Worker>,
    /// For lanes through the API; none if the target does not offer them.
    api: Option<Arc<Api>>,
}

/// The listener's socket behind the API.
struct Api {
    bridge: Bridge,
    directory: TempDir,
}

impl Api {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("lanes")
    }
}

impl Default for Seam {
    fn default() -> Self {
        Self::with_listeners(Listener::start)
    }
}

impl Seam {
    /// A seam that starts its listener with `start`.
    pub fn with_listeners(start: impl Fn(Value) -> Listener + Send + Sync + 'static) -> Self {
        Self {
            listener: Arc::default(),
            commands: Arc::default(),
            start: Arc::new(start),
            script: Arc::new(|_, default_answer| default_answer()),
            worker: Arc::new(|_| None),
            api: None,
        }
    }

    /// The same seam with lanes through the API.
    pub fn with_websocket_lanes(mut self, bridge: Bridge) -> Self {
        self.api = Some(Arc::new(Api {
            bridge,
            directory: tempfile::tempdir().unwrap(),
        }));
        self
    }

    /// The socket of the listener behind the API.
    pub fn listener_socket(&self) -> PathBuf {
        self.api.as_ref().unwrap().socket()
    }

    /// The same, with these options of the listener beside those of the request.
    pub fn with_options(
        start: impl Fn(Value) -> Listener + Send + Sync + 'static,
        options: Value,
    ) -> Self {
        Self::with_listeners(move |mut all| {
            for (name, value) in options.as_object().unwrap() {
                all[name] = value.clone();
            }
            start(all)
        })
    }

    /// A seam whose answers a script gives.
    pub fn scripted(
        script: impl Fn(&Value, &dyn Fn() -> Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        Self::default().with_script(script)
    }

    /// The same seam, with answers from a script.
    pub fn with_script(
        mut self,
        script: impl Fn(&Value, &dyn Fn() -> Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        self.script = Arc::new(script);
        self
    }

    /// The same seam in a worker whose own commands a script answers.
    pub fn with_worker(
        mut self,
        worker: impl Fn(&Value) -> Option<Value> + Send + Sync + 'static,
    ) -> Self {
        self.worker = Arc::new(worker);
        self
    }

    fn answer(&self, command: &Value) -> Value {
        self.commands.lock().unwrap().push(command.clone());
        match &command["direct"] {
            Value::Null => (self.worker)(command).unwrap_or_else(|| stock_answer(command)),
            direct => (self.script)(direct, &|| self.default_answer(direct)),
        }
    }

    fn default_answer(&self, direct: &Value) -> Value {
        let mut listener = self.listener.lock().unwrap();
        let answer = match (direct["op"].as_str().unwrap(), &mut *listener) {
            ("hello", _) => json!({
                "protocol": 2, "oldest": 1, "caps": ["direct-tls", "direct-tcp"],
                "compression": ["zstd"], "websocket_lanes": self.api.is_some(),
                "version": "9.9", "something": "of a newer version",
            }),
            ("open", _) => {
                let mut options = direct.clone();
                let fields = options.as_object_mut().unwrap();
                fields.remove("op");
                fields.insert("node".to_owned(), "node".into());
                if direct["plane"] == "websocket" {
                    fields.insert("path".to_owned(), json!(self.listener_socket()));
                }
                let opened = (self.start)(options);
                let answer = opened.opened.clone();
                *listener = Some(opened);
                answer
            }
            (_, Some(listener)) => listener
                .try_request(direct)
                .unwrap_or_else(|| json!({ "error": "the listener has ended" })),
            (_, None) => json!({ "error": "there is no listener" }),
        };
        match answer.get("error") {
            Some(error) => json!({ "success": false, "msg": error }),
            None => json!({ "success": true, "direct": answer }),
        }
    }

    /// A target with this seam. Every other socket of its websockets echoes.
    pub fn target(&self) -> Target {
        let seam = self.clone();
        Target::new(move |request| seam.serve(request))
    }

    /// Serves a request to that target.
    pub fn serve(&self, request: Request) {
        match request.socket() {
            "/run/mtunnel" => serve_worker(request, |command| self.answer(command)),
            socket => match &self.api {
                Some(api) if Path::new(socket) == api.socket() => api.bridge.serve(request),
                _ => echo(request),
            },
        }
    }

    /// The requests that the worker received, as [`Self::received`], without `version`.
    pub fn operations(&self) -> Vec<String> {
        let names = self.received();
        names.into_iter().filter(|word| word != "version").collect()
    }

    /// The requests that the worker received: its own commands by name, the seam's operations by
    /// `op`.
    pub fn received(&self) -> Vec<String> {
        let commands = self.commands.lock().unwrap();
        let words = commands.iter().map(|command| {
            let word = command["direct"].get("op").unwrap_or(&command["cmd"]);
            word.as_str().unwrap().to_owned()
        });
        words.collect()
    }

    /// The requests for this operation.
    pub fn requests(&self, op: &str) -> Vec<Value> {
        let commands = self.commands.lock().unwrap();
        let requests = commands.iter().map(|command| command["direct"].clone());
        requests.filter(|request| request["op"] == op).collect()
    }

    /// The process ID of the listener.
    pub fn listener_pid(&self) -> u32 {
        self.listener.lock().unwrap().as_ref().unwrap().pid()
    }

    /// Takes the listener out of the seam.
    pub fn take_listener(&self) -> Listener {
        self.listener.lock().unwrap().take().unwrap()
    }
}

fn echo(request: Request) {
    let mut websocket = request.websocket();
    while let Ok(message) = websocket.read() {
        match message {
            Message::Binary(bytes) => websocket.send(Message::Binary(bytes)).unwrap(),
            Message::Close(_) => return,
            _ => {}
        }
    }
}

/// The data of the control command `direct`, with the loopback network as the migration network.
pub fn plane_request(kind: &str) -> Value {
    json!({
        "migration_type": kind, "migration_network": "127.0.0.0/8", "network": "127.0.0.0/8",
        "source_network": "127.0.0.0/8", "planes": ["tls", "tcp"],
    })
}

/// The same, with these fields added or replaced.
pub fn plane_request_with(kind: &str, fields: &Value) -> Value {
    let mut request = plane_request(kind);
    for (name, value) in fields.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

/// Starts a local program of the target, which serves each connection. Returns the path of its
/// socket.
pub fn program(directory: &Path, serve: impl Fn(UnixStream) + Send + 'static) -> PathBuf {
    let number = std::fs::read_dir(directory).unwrap().count();
    program_at(directory.join(format!("program{number}")), serve)
}

fn program_at(path: PathBuf, serve: impl Fn(UnixStream) + Send + 'static) -> PathBuf {
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap());
        }
    });
    path
}

/// A connector and a target after their negotiation.
pub struct NegotiatedTunnel {
    pub seam: Seam,
    pub target: Target,
    pub connector: Connector,
    pub directory: TempDir,
    /// The answer to `direct`, and how long the negotiation took.
    pub answer: Value,
    pub took: Duration,
}

impl NegotiatedTunnel {
    /// With a listener on the loopback network.
    pub fn new(kind: &str) -> Self {
        Self::negotiate(Seam::default(), &plane_request(kind))
    }

    /// Negotiates with this seam and this request.
    pub fn negotiate(seam: Seam, request: &Value) -> Self {
        Self::negotiate_with(Connector::start(), seam, request)
    }

    /// The same with a connector that was started for it.
    pub fn negotiate_with(mut connector: Connector, seam: Seam, request: &Value) -> Self {
        let target = seam.target();
        connector.begin(&target);
        let mut data = request.clone();
        if seam.api.is_some() && data.get("api").is_none() {
            data["api"] = target_data(&target.url(""), Some(target.fingerprint));
        }
        let started = Instant::now();
        let answer = connector.request(&json!({ "control": true, "cmd": "direct", "data": data }));
        Self {
            seam,
            target,
            connector,
            directory: tempfile::tempdir().unwrap(),
            answer,
            took: started.elapsed(),
        }
    }

    /// The same. Requires that the negotiation succeeds with this plane.
    pub fn on_plane(plane: &str, seam: Seam, request: &Value) -> Self {
        let tunnel = Self::negotiate(seam, request);
        let answer = &tunnel.answer;
        assert_eq!(answer["success"], true, "{answer}");
        assert_eq!(answer["plan"]["plane"], plane, "{answer}");
        tunnel
    }

    /// With so many lanes, neither more nor fewer, for streams that are opened from now on.
    pub fn with_lanes(mut self, lanes: u16) -> Self {
        self.connector.lanes_of_forwards = Some(lanes);
        self
    }

    /// Opens a connection to a program of the target.
    pub fn open(&mut self, program: &Path) -> UnixStream {
        self.connector.open(&self.target, program.to_str().unwrap())
    }

    /// Opens a connection. Returns the source program's end and the target program's end.
    pub fn pair(&mut self) -> (UnixStream, UnixStream) {
        let number = std::fs::read_dir(self.directory.path()).unwrap().count();
        self.pair_at(&format!("program{number}"))
    }

    /// The same with this name of the target's socket.
    pub fn pair_at(&mut self, name: &str) -> (UnixStream, UnixStream) {
        let (sender, connections) = mpsc::channel();
        let path = program_at(self.directory.path().join(name), move |stream| {
            // Fails only if the test is over.
            let _ = sender.send(stream);
        });
        let source = self.open(&path);
        let target = connections.recv_timeout(TIMEOUT).unwrap();
        for stream in [&source, &target] {
            // Without a limit, a test that waits would not report what it waits for.
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        }
        (source, target)
    }

    /// Waits until the counters of the target's listener meet a condition. Returns them.
    pub fn stat_until(&self, condition: impl Fn(&Stat) -> bool) -> Stat {
        let mut listener = self.seam.listener.lock().unwrap();
        listener.as_mut().unwrap().stat_until(condition)
    }

    /// Requests the record and ends the connector.
    pub fn finish(mut self) -> (Value, Finished) {
        let answer = self
            .connector
            .request(&json!({ "control": true, "cmd": "finish" }));
        assert_eq!(answer["success"], true, "{answer}");
        (answer["record"].clone(), self.connector.finish())
    }
}
