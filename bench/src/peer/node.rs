//! A target node with an open tunnel, and connections through it.

use super::websocat::Websocat;
use crate::project;
use crate::tunnel::{CONNECTOR, Ends, Tunnel};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use tempfile::TempDir;
use testing::cable::TARGET_ADDRESSES;
use testing::connector::Connector;
use testing::link::Link;
use testing::wait_until;

/// The program that serves HTTP and websockets on the target.
#[derive(Clone, Copy)]
pub enum Front {
    /// The real `PVE::APIServer::AnyEvent`, if Perl finds it (PERL5LIB).
    Pveproxy,
    /// The test node: hyper, rustls and tungstenite on one thread.
    TestNode,
}

impl Front {
    /// The process's name in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pveproxy => "pveproxy",
            Self::TestNode => "test node",
        }
    }
}

/// The node, and a connector that is connected to it.
pub struct Node {
    front: Front,
    description: Description,
    connector: Connector,
    directory: TempDir,
    _process: NodeProcess,
}

/// What `node.pl` reports about the node.
#[derive(Deserialize)]
struct Description {
    /// Of the processes that serve HTTP.
    pids: Vec<u32>,
    url: String,
    fingerprint: String,
    token: String,
    ticket: String,
    socket: String,
}

impl Node {
    /// Starts the node on loopback, and a connector. The error is the reason why this node cannot
    /// start here.
    pub fn start(front: Front) -> Result<Self, String> {
        Self::connect_to(front, NodeProcess::start(front, LOOPBACK, None)?)
    }

    /// Starts a node with pve-tunnel and so many processes of pveproxy.
    pub fn with_processes(processes: u32) -> Result<Self, String> {
        let front = Front::Pveproxy;
        Self::connect_to(front, NodeProcess::start(front, LOOPBACK, Some(processes))?)
    }

    /// From now on, connections have lanes through the API.
    pub fn use_lanes(&mut self) {
        let data = json!({ "api": self.description.data(&[]) });
        let answer = self.command(&json!({ "control": true, "cmd": "direct", "data": data }));
        assert_eq!(answer["direct"]["plane"], "websocket", "{answer}");
    }

    /// Starts the node at the target's end of a link, and a connector at the source's end. The error
    /// is the reason why this node cannot start here.
    pub fn start_at_target(front: Front, link: &Link) -> Result<Self, String> {
        let start = move || NodeProcess::start(front, TARGET_ADDRESSES[0], None);
        Self::connect_to(front, link.target().execute(start)?)
    }

    /// Connects to a node with the answer that it printed.
    fn connect_to(front: Front, (process, answer): (NodeProcess, Value)) -> Result<Self, String> {
        let description: Description = match answer.get("reason").and_then(Value::as_str) {
            // Perl appends its search path in parentheses.
            Some(reason) => return Err(reason.split(['\n', '(']).next().unwrap().to_owned()),
            None => serde_json::from_value(answer).unwrap(),
        };
        let mut connector = Connector::start();
        connector.send(
            &json!({ "control": true, "cmd": "connect", "data": description.data(&[
                ("ticket", &description.ticket), ("socket", &description.socket),
            ])}),
        );
        let version = connector.request(&json!({ "cmd": "version" }));
        assert_eq!(version["api"], 2, "{version}");
        Ok(Self {
            front,
            description,
            connector,
            directory: tempfile::tempdir().unwrap(),
            _process: process,
        })
    }

    /// The PIDs of the processes that serve HTTP.
    pub fn pids(&self) -> &[u32] {
        &self.description.pids
    }

    /// The PID of the program that serves HTTP, or of the first of its processes.
    pub fn pid(&self) -> u32 {
        self.description.pids[0]
    }

    /// Forwards a new local path to `remote`, and returns the local path.
    pub fn forward(&mut self, remote: &Path) -> PathBuf {
        self.allow(remote);
        let local = self.new_path("local");
        let mut data = self.description.data(&[("socket", text(remote))]);
        data["unix"] = text(&local).into();
        data["ticket"] = json!({ "path": remote });
        self.command(&json!({ "control": true, "cmd": "forward", "data": data }));
        local
    }

    /// A connection through websocat instead of the connector.
    pub fn connect_by_websocat(&mut self, program: &Path) -> (Websocat, Ends) {
        let (local, remote) = (self.new_path("local"), self.new_path("remote"));
        let listener = UnixListener::bind(&remote).unwrap();
        self.allow(&remote);
        let ticket = self.command(&json!({ "cmd": "ticket", "path": remote }));
        let ticket = ticket["ticket"].as_str().unwrap();
        let url = self
            .description
            .url(&[("ticket", ticket), ("socket", text(&remote))]);
        let websocat = Websocat::start(program, &local, &url, &self.description.token);
        let source = websocat.connect(&local);
        let sink = accept(&listener);
        (websocat, Ends { source, sink })
    }

    /// Allows the worker to create tickets for a listener on the target.
    fn allow(&mut self, path: &Path) {
        self.command(&json!({ "cmd": "admit", "path": path }));
    }

    fn command(&mut self, line: &Value) -> Value {
        let answer = self.connector.request(line);
        assert_eq!(answer["success"], true, "{answer}");
        answer
    }

    fn new_path(&self, prefix: &str) -> PathBuf {
        let number = std::fs::read_dir(self.directory.path()).unwrap().count();
        self.directory.path().join(format!("{prefix}{number}"))
    }
}

impl Tunnel for Node {
    fn connect(&mut self) -> Ends {
        let remote = self.new_path("remote");
        let listener = UnixListener::bind(&remote).unwrap();
        Ends {
            source: UnixStream::connect(self.forward(&remote)).unwrap(),
            sink: accept(&listener),
        }
    }

    fn processes(&self) -> Vec<(&str, u32)> {
        let fronts = self.description.pids.iter();
        let fronts = fronts.map(|pid| (self.front.name(), *pid));
        [(CONNECTOR, self.connector.child.id())]
            .into_iter()
            .chain(fronts)
            .collect()
    }
}

impl Description {
    /// The data that the connector requires for a websocket.
    fn data(&self, query: &[(&str, &str)]) -> Value {
        let url = match query {
            // The connector appends a ticket to the URL of a forward.
            [("socket", _)] => self.url(query) + "&",
            // For lanes it appends a socket before.
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

const LOOPBACK: &str = "127.0.0.1";

/// How much freed memory the test node may keep, in bytes.
const MALLOC_KEEPS: &str = "268435456";

/// The Perl program that starts the node. It ends, and stops the node, at the end of its input.
struct NodeProcess {
    child: Child,
}

impl NodeProcess {
    /// Starts it at this address of this thread's namespace, and returns the line that it prints.
    fn start(front: Front, address: &str, processes: Option<u32>) -> Result<(Self, Value), String> {
        let argument = match front {
            Front::Pveproxy => "pveproxy",
            Front::TestNode => "testnode",
        };
        let mut command = Command::new("perl");
        if let Front::TestNode = front {
            // The test node allocates a buffer for each frame. With the default settings, malloc
            // would return each of them to the kernel.
            let settings = ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"];
            command.envs(settings.map(|name| (name, MALLOC_KEEPS)));
        }
        let mut child = command
            .arg(project::path("bench/perl/node.pl"))
            .args([argument, address])
            .args(processes.map(|processes| processes.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("perl: {error}"))?;
        let line = first_line(child.stdout.take().unwrap());
        let process = Self { child };
        match serde_json::from_str(&line) {
            Ok(answer) => Ok((process, answer)),
            Err(_) => Err("bench/perl/node.pl ended without an answer".to_owned()),
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // At the end of its input, the program stops the node and removes its directory. A signal
        // would leave both.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn first_line(output: ChildStdout) -> String {
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).unwrap();
    line
}

/// Waits for a connection.
fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    wait_until("a connection at the target", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (stream, _) = accepted.unwrap();
    stream
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
