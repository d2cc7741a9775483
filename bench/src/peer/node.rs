//! A target node with an open tunnel, and the connections that lead through it.

use super::websocat::Websocat;
use crate::project;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use tempfile::TempDir;
use testing::connector::Connector;
use testing::until;

/// Who speaks HTTP and websockets at the target.
#[derive(Clone, Copy)]
pub enum Front {
    /// The real `PVE::APIServer::AnyEvent`, where Perl finds it (PERL5LIB).
    Pveproxy,
    /// The test node: hyper, rustls and tungstenite on one thread.
    TestNode,
}

impl Front {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pveproxy => "pveproxy",
            Self::TestNode => "test node",
        }
    }
}

/// The node, and a connector that is connected to it.
pub struct Node {
    told: Told,
    connector: Connector,
    directory: TempDir,
    _keeper: Keeper,
}

/// What `node.pl` says of the node.
#[derive(Deserialize)]
struct Told {
    pid: u32,
    url: String,
    fingerprint: String,
    token: String,
    ticket: String,
    socket: String,
}

/// Both ends of a connection: the program of the source, the program of the target.
pub struct Ends {
    pub source: UnixStream,
    pub target: UnixStream,
}

impl Node {
    /// Starts both; why there is none, otherwise.
    pub fn start(front: Front) -> Result<Self, String> {
        let (keeper, told) = Keeper::start(front)?;
        let told: Told = match told.get("reason").and_then(Value::as_str) {
            // Where Perl has looked follows in parentheses.
            Some(reason) => return Err(reason.split(['\n', '(']).next().unwrap().to_owned()),
            None => serde_json::from_value(told).unwrap(),
        };
        let mut connector = Connector::start();
        connector.say(
            &json!({ "control": true, "cmd": "connect", "data": told.data(&[
                ("ticket", &told.ticket), ("socket", &told.socket),
            ])}),
        );
        let version = connector.ask(&json!({ "cmd": "version" }));
        assert_eq!(version["api"], 2, "{version}");
        Ok(Self {
            told,
            connector,
            directory: tempfile::tempdir().unwrap(),
            _keeper: keeper,
        })
    }

    /// The process that is the front.
    pub fn pid(&self) -> u32 {
        self.told.pid
    }

    /// The process that is the connector.
    pub fn connector(&self) -> u32 {
        self.connector.child.id()
    }

    /// A connection through the connector.
    pub fn connection(&mut self) -> Ends {
        let remote = self.fresh("remote");
        let listener = UnixListener::bind(&remote).unwrap();
        Ends {
            source: UnixStream::connect(self.forward(&remote)).unwrap(),
            target: accept(&listener),
        }
    }

    /// A path at the source that stands for one at the target.
    pub fn forward(&mut self, remote: &Path) -> PathBuf {
        self.admit(remote);
        let local = self.fresh("local");
        let mut data = self.told.data(&[("socket", text(remote))]);
        data["unix"] = text(&local).into();
        data["ticket"] = json!({ "path": remote });
        self.command(&json!({ "control": true, "cmd": "forward", "data": data }));
        local
    }

    /// The same through websocat in the connector's place.
    pub fn connection_by_websocat(&mut self, program: &Path) -> (Websocat, Ends) {
        let (local, remote) = (self.fresh("local"), self.fresh("remote"));
        let listener = UnixListener::bind(&remote).unwrap();
        self.admit(&remote);
        let ticket = self.command(&json!({ "cmd": "ticket", "path": remote }));
        let ticket = ticket["ticket"].as_str().unwrap();
        let url = self
            .told
            .url(&[("ticket", ticket), ("socket", text(&remote))]);
        let websocat = Websocat::start(program, &local, &url, &self.told.token);
        let source = websocat.connect(&local);
        let target = accept(&listener);
        (websocat, Ends { source, target })
    }

    /// Lets the worker make tickets for a listener at the target.
    fn admit(&mut self, path: &Path) {
        self.command(&json!({ "cmd": "admit", "path": path }));
    }

    fn command(&mut self, line: &Value) -> Value {
        let answer = self.connector.ask(line);
        assert_eq!(answer["success"], true, "{answer}");
        answer
    }

    fn fresh(&self, end: &str) -> PathBuf {
        let number = std::fs::read_dir(self.directory.path()).unwrap().count();
        self.directory.path().join(format!("{end}{number}"))
    }
}

impl Told {
    /// What the connector has to know for a websocket.
    fn data(&self, query: &[(&str, &str)]) -> Value {
        let url = match query {
            // It appends a ticket of its own to the URL of a forward.
            [("socket", _)] => self.url(query) + "&",
            _ => self.url(query),
        };
        json!({
            "url": url, "headers": [["Authorization", self.token]],
            "fingerprint": self.fingerprint,
        })
    }

    fn url(&self, query: &[(&str, &str)]) -> String {
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        format!("{}?{}", self.url, query.join("&"))
    }
}

/// How much freed memory the test node keeps, in bytes.
const KEPT: &str = "268435456";

/// The program that keeps the node, which ends with its input.
struct Keeper {
    child: Child,
}

impl Keeper {
    fn start(front: Front) -> Result<(Self, Value), String> {
        let word = match front {
            Front::Pveproxy => "pveproxy",
            Front::TestNode => "testnode",
        };
        let mut command = Command::new("perl");
        if let Front::TestNode = front {
            // It makes a buffer for each frame. The kernel would take back every one of them.
            command.envs(
                ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"].map(|name| (name, KEPT)),
            );
        }
        let mut child = command
            .arg(project::path("bench/perl/node.pl"))
            .arg(word)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("perl: {error}"))?;
        let told = first_line(child.stdout.take().unwrap());
        let keeper = Self { child };
        match serde_json::from_str(&told) {
            Ok(told) => Ok((keeper, told)),
            Err(_) => Err("the node's Perl program ended without a word".to_owned()),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It takes the node and the node's directory with it, which a signal would leave.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn first_line(output: ChildStdout) -> String {
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).unwrap();
    line
}

/// The connection that has to come now.
fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let mut taken = None;
    until("a connection at the target", || {
        taken = listener.accept().ok();
        taken.is_some()
    });
    let (stream, _) = taken.unwrap();
    stream
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
