//! Workers: one Perl process for each tunnel, as `pvedaemon` forks them.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Map, Value, json};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a worker may take until it listens.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// How long a worker may take to end after its stdin has: it may have to stop QEMU.
const END_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub(crate) enum WorkerError {
    #[error("guest {0} has a tunnel already")]
    Busy(u32),
    #[error("cannot open the worker's log: {0}")]
    Log(std::io::Error),
    #[error("cannot run perl: {0}")]
    Spawn(std::io::Error),
    #[error("the worker did not start: {0}")]
    NotReady(String),
}

/// A guest's kind, the word in the request's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Qemu,
    Lxc,
}

impl Kind {
    pub(crate) fn from_path(word: &str) -> Option<Self> {
        match word {
            "qemu" => Some(Self::Qemu),
            "lxc" => Some(Self::Lxc),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Lxc => "lxc",
        }
    }
}

/// What a worker is told of its node.
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) node: String,
    pub(crate) user: String,
    pub(crate) ticket_key: String,
    pub(crate) traits: Traits,
}

/// What kind of node this is.
pub(crate) struct Traits {
    /// From before capabilities.
    pub(crate) old: bool,
    /// Without pve-tunnel.
    pub(crate) no_direct: bool,
    /// Its user lacks the privilege for clear text and for networks of their choice.
    pub(crate) no_privilege: bool,
    /// Its networks for migrations; the worker knows where they are otherwise.
    pub(crate) configuration: Option<PathBuf>,
}

/// A worker that listens.
pub(crate) struct Started {
    pub(crate) socket: PathBuf,
    pub(crate) pid: u32,
}

struct Running {
    child: Child,
    /// Its end tells the worker to end.
    stdin: Option<ChildStdin>,
    socket: PathBuf,
}

/// All workers of the node, by guest.
pub(crate) struct Workers {
    home: Home,
    running: Mutex<HashMap<u32, Running>>,
}

impl Workers {
    pub(crate) fn new(home: Home) -> Self {
        Self {
            home,
            running: Mutex::new(HashMap::new()),
        }
    }

    /// Starts a worker and waits until it listens. A guest has one tunnel at a time, as the
    /// guest's lock has it on a Proxmox VE node.
    pub(crate) async fn start(
        &self,
        kind: Kind,
        vmid: u32,
        params: Map<String, Value>,
    ) -> Result<Started, WorkerError> {
        let mut running = self.running.lock().await;
        if let Some(worker) = running.get_mut(&vmid) {
            if !matches!(worker.child.try_wait(), Ok(Some(_))) {
                return Err(WorkerError::Busy(vmid));
            }
        }
        let socket = self.home.dir.join(match kind {
            Kind::Qemu => format!("{vmid}.mtunnel"),
            Kind::Lxc => format!("ct-{vmid}.mtunnel"),
        });
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.dir.join(format!("{vmid}.log")))
            .map_err(WorkerError::Log)?;
        let mut child = Command::new("perl")
            .arg(&self.home.program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().map_err(WorkerError::Log)?)
            .kill_on_drop(true)
            .spawn()
            .map_err(WorkerError::Spawn)?;
        let request = self.request(kind, vmid, &socket, params);
        let outcome = timeout(READY_LIMIT, ready(&mut child, &request)).await;
        let (stdin, lines) = match outcome {
            Ok(Ok(pipes)) => pipes,
            Ok(Err(reason)) => return Err(WorkerError::NotReady(reason)),
            Err(_) => {
                return Err(WorkerError::NotReady(
                    "it took too long to listen".to_owned(),
                ));
            }
        };
        tokio::spawn(keep_log(lines, log));
        let pid = child.id().unwrap_or_default();
        running.insert(
            vmid,
            Running {
                child,
                stdin: Some(stdin),
                socket: socket.clone(),
            },
        );
        Ok(Started { socket, pid })
    }

    /// Whether `path` is a tunnel's own command socket, not one for data.
    pub(crate) async fn is_control(&self, path: &Path) -> bool {
        self.running
            .lock()
            .await
            .values()
            .any(|worker| worker.socket == path)
    }

    /// Ends all workers: stdin ends, and who is not gone within the limit is killed.
    pub(crate) async fn end(&self) {
        let mut running = self.running.lock().await;
        for worker in running.values_mut() {
            worker.stdin = None;
        }
        for (vmid, worker) in running.iter_mut() {
            if timeout(END_LIMIT, worker.child.wait()).await.is_err() {
                crate::log(&format!("worker {vmid}: did not end, killed"));
                let _ = worker.child.kill().await;
            }
            let _ = std::fs::remove_file(&worker.socket);
        }
        running.clear();
    }

    fn request(&self, kind: Kind, vmid: u32, socket: &Path, params: Map<String, Value>) -> Value {
        json!({
            "socket": socket,
            "vmid": vmid,
            "kind": kind.word(),
            "node": self.home.node,
            "dir": self.home.dir,
            "user": self.home.user,
            "ticket_key": self.home.ticket_key,
            "old": self.home.traits.old,
            "no_direct": self.home.traits.no_direct,
            "no_privilege": self.home.traits.no_privilege,
            "configuration": self.home.traits.configuration,
            "params": params,
        })
    }
}

type Pipes = (ChildStdin, Lines<BufReader<ChildStdout>>);

/// Tells the worker what to do and waits for its first line; the error is a reason in words.
async fn ready(child: &mut Child, request: &Value) -> Result<Pipes, String> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no pipes".to_owned());
    };
    let line = format!("{request}\n");
    stdin
        .write_all(line.as_bytes())
        .await
        .map_err(|error| format!("it reads nothing: {error}"))?;
    let mut lines = BufReader::new(stdout).lines();
    let first = lines.next_line().await.map_err(|error| error.to_string())?;
    let Some(first) = first else {
        return Err("it ended without a word, see its log".to_owned());
    };
    match serde_json::from_str::<Value>(&first) {
        Ok(answer) if answer.get("ready").and_then(Value::as_u64) == Some(1) => Ok((stdin, lines)),
        _ => Err("its first line was not {\"ready\":1}, see its log".to_owned()),
    }
}

/// Whatever a worker prints after its first line is its log.
async fn keep_log(mut lines: Lines<BufReader<ChildStdout>>, mut log: File) {
    while let Ok(Some(line)) = lines.next_line().await {
        if writeln!(log, "{line}").is_err() {
            return;
        }
    }
}
