//! A target whose worker has a seam, and a connector that has agreed with it on a plane.

use crate::connector::{Connector, Finished};
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

/// Far longer than anything here takes.
const FAR: Duration = Duration::from_secs(60);

/// How a seam starts the listener that it is asked for.
type Start = dyn Fn(Value) -> Listener + Send + Sync;

/// What a seam of another kind answers to a request, knowing what ours would.
type Script = dyn Fn(&Value, &dyn Fn() -> Value) -> Value + Send + Sync;

/// The seam of a target, with what it has opened.
#[derive(Clone)]
pub struct Seam {
    pub listener: Arc<Mutex<Option<Listener>>>,
    /// Every line that the worker got.
    commands: Arc<Mutex<Vec<Value>>>,
    start: Arc<Start>,
    script: Arc<Script>,
}

impl Default for Seam {
    fn default() -> Self {
        Self::starting(Listener::start)
    }
}

impl Seam {
    /// One that starts its listener in this way.
    pub fn starting(start: impl Fn(Value) -> Listener + Send + Sync + 'static) -> Self {
        Self {
            listener: Arc::default(),
            commands: Arc::default(),
            start: Arc::new(start),
            script: Arc::new(|_, ours| ours()),
        }
    }

    /// One that answers otherwise.
    pub fn scripted(
        script: impl Fn(&Value, &dyn Fn() -> Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        Self::default().answering(script)
    }

    /// The same, but it answers otherwise.
    pub fn answering(
        mut self,
        script: impl Fn(&Value, &dyn Fn() -> Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        self.script = Arc::new(script);
        self
    }

    fn answer(&self, command: &Value) -> Value {
        self.commands.lock().unwrap().push(command.clone());
        match &command["direct"] {
            Value::Null => stock_answer(command),
            direct => (self.script)(direct, &|| self.ours(direct)),
        }
    }

    fn ours(&self, direct: &Value) -> Value {
        let mut listener = self.listener.lock().unwrap();
        let answer = match (direct["op"].as_str().unwrap(), &mut *listener) {
            ("hello", _) => json!({
                "protocol": 1, "oldest": 1, "caps": ["direct-tls", "direct-tcp"],
                "version": "9.9", "something": "of a newer version",
            }),
            ("open", _) => {
                let mut options = direct.clone();
                let fields = options.as_object_mut().unwrap();
                fields.remove("op");
                fields.remove("protocol");
                fields.insert("node".to_owned(), "node".into());
                let opened = (self.start)(options);
                let answer = opened.opened.clone();
                *listener = Some(opened);
                answer
            }
            (_, Some(listener)) => listener.ask(direct),
            (_, None) => json!({ "error": "there is no listener" }),
        };
        match answer.get("error") {
            Some(error) => json!({ "success": false, "msg": error }),
            None => json!({ "success": true, "direct": answer }),
        }
    }

    /// A target with this seam. Sockets that are reached by websocket echo.
    pub fn target(&self) -> Target {
        let seam = self.clone();
        Target::new(move |request| seam.serve(request))
    }

    /// What that target does with a request.
    pub fn serve(&self, request: Request) {
        match request.socket() {
            "/run/mtunnel" => serve_worker(request, |command| self.answer(command)),
            _ => echo(request),
        }
    }

    /// What it was asked for.
    pub fn ops(&self) -> Vec<String> {
        let said = self.said();
        said.into_iter().filter(|word| word != "version").collect()
    }

    /// What the worker was told: its own commands by name, the seam's by `op`.
    pub fn said(&self) -> Vec<String> {
        let commands = self.commands.lock().unwrap();
        let words = commands.iter().map(|command| {
            let word = command["direct"].get("op").unwrap_or(&command["cmd"]);
            word.as_str().unwrap().to_owned()
        });
        words.collect()
    }

    /// The requests of that kind.
    pub fn requests(&self, op: &str) -> Vec<Value> {
        let commands = self.commands.lock().unwrap();
        let requests = commands.iter().map(|command| command["direct"].clone());
        requests.filter(|request| request["op"] == op).collect()
    }

    /// The process that the listener is.
    pub fn listener_pid(&self) -> u32 {
        self.listener.lock().unwrap().as_ref().unwrap().pid()
    }

    /// The listener, out of the seam's hands.
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

/// What a caller on this machine wishes for.
pub fn wish(kind: &str) -> Value {
    json!({
        "migration_type": kind, "migration_network": "127.0.0.0/8", "network": "127.0.0.0/8",
        "source_network": "127.0.0.0/8", "planes": ["tls", "tcp"],
    })
}

/// The same, with other or more fields.
pub fn wish_with(kind: &str, fields: &Value) -> Value {
    let mut wish = wish(kind);
    for (name, value) in fields.as_object().unwrap() {
        wish[name] = value.clone();
    }
    wish
}

/// A local program of the target, which gets each connection.
pub fn program(directory: &Path, serve: impl Fn(UnixStream) + Send + 'static) -> PathBuf {
    let number = std::fs::read_dir(directory).unwrap().count();
    let path = directory.join(format!("program{number}"));
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap());
        }
    });
    path
}

/// A source and a target after their negotiation.
pub struct Crossing {
    pub seam: Seam,
    pub target: Target,
    pub connector: Connector,
    pub directory: TempDir,
    /// What `direct` was answered with, and how long that took.
    pub answer: Value,
    pub took: Duration,
}

impl Crossing {
    /// With a listener on the loopback network.
    pub fn new(kind: &str) -> Self {
        Self::with(Seam::default(), &wish(kind))
    }

    /// With that seam, after asking for this.
    pub fn with(seam: Seam, wish: &Value) -> Self {
        let target = seam.target();
        let mut connector = Connector::connected(&target);
        let started = Instant::now();
        let answer = connector.ask(&json!({ "control": true, "cmd": "direct", "data": wish }));
        Self {
            seam,
            target,
            connector,
            directory: tempfile::tempdir().unwrap(),
            answer,
            took: started.elapsed(),
        }
    }

    /// The same, where everything has to go well.
    pub fn on(plane: &str, seam: Seam, wish: &Value) -> Self {
        let crossing = Self::with(seam, wish);
        let answer = &crossing.answer;
        assert_eq!(answer["success"], true, "{answer}");
        assert_eq!(answer["plan"]["plane"], plane, "{answer}");
        crossing
    }

    /// A connection to a program of the target.
    pub fn open(&mut self, program: &Path) -> UnixStream {
        self.connector.open(&self.target, program.to_str().unwrap())
    }

    /// A connection, and the program of the target at its other end.
    pub fn pair(&mut self) -> (UnixStream, UnixStream) {
        let (taken, takes) = mpsc::channel();
        let path = program(self.directory.path(), move |stream| {
            // Only fails if the test is over.
            let _ = taken.send(stream);
        });
        let source = self.open(&path);
        let target = takes.recv_timeout(FAR).unwrap();
        for stream in [&source, &target] {
            // A test that waits for ever says nothing.
            stream.set_read_timeout(Some(FAR)).unwrap();
            stream.set_write_timeout(Some(FAR)).unwrap();
        }
        (source, target)
    }

    /// What the target's listener counts, when it is so.
    pub fn stat_until(&self, right: impl Fn(&Stat) -> bool) -> Stat {
        let mut listener = self.seam.listener.lock().unwrap();
        listener.as_mut().unwrap().stat_until(right)
    }

    /// The record, after which the connector ends.
    pub fn finish(mut self) -> (Value, Finished) {
        let answer = self
            .connector
            .ask(&json!({ "control": true, "cmd": "finish" }));
        assert_eq!(answer["success"], true, "{answer}");
        (answer["record"].clone(), self.connector.finish())
    }
}
