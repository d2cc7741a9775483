//! Workers: one Perl process for each tunnel, like the workers that `pvedaemon` forks.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Time limit for a worker to start listening.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// Time until Proxmox VE kills a task that was stopped.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Time limit for a worker to exit after its stdin was closed. It may have to stop QEMU.
const END_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub(crate) enum WorkerError {
    #[error("guest {0} already has a tunnel")]
    Busy(u32),
    #[error("cannot open the worker's log: {0}")]
    Log(std::io::Error),
    #[error("cannot run perl: {0}")]
    Spawn(std::io::Error),
    #[error("the worker did not start: {0}")]
    NotReady(String),
}

/// The kind of a guest, a component of the request path.
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

    /// The directory of the configurations below that of the node.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-server",
            Self::Lxc => "lxc",
        }
    }

    /// What messages of Proxmox VE call such a guest.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Qemu => "VM",
            Self::Lxc => "CT",
        }
    }
}

/// The settings that the node passes to every worker.
pub(crate) struct WorkerSettings {
    pub(crate) dir: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) node: String,
    pub(crate) user: String,
    pub(crate) ticket_key: String,
    pub(crate) profile: NodeProfile,
}

/// The kind of node that the test node imitates.
pub(crate) struct NodeProfile {
    /// A node without capabilities.
    pub(crate) old: bool,
    /// A node without pve-tunnel.
    pub(crate) no_direct: bool,
    /// The user lacks the privilege for clear text and for explicit migration networks.
    pub(crate) no_privilege: bool,
    /// The file with the migration networks. `None`: the default of the worker.
    pub(crate) configuration: Option<PathBuf>,
}

/// A worker that is listening.
pub(crate) struct Started {
    pub(crate) socket: PathBuf,
    pub(crate) pid: u32,
}

struct Running {
    kind: Kind,
    child: Child,
    /// The worker exits when this is closed.
    stdin: Option<ChildStdin>,
    socket: PathBuf,
}

/// All workers of the node, by guest ID.
pub(crate) struct Workers {
    settings: WorkerSettings,
    running: Mutex<HashMap<u32, Running>>,
}

impl Workers {
    pub(crate) fn new(settings: WorkerSettings) -> Self {
        Self {
            settings,
            running: Mutex::new(HashMap::new()),
        }
    }

    /// Starts a worker and waits until it listens. A guest has one tunnel at a time. On a Proxmox
    /// VE node, the lock of the guest ensures this.
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
        let socket = self.settings.dir.join(match kind {
            Kind::Qemu => format!("{vmid}.mtunnel"),
            Kind::Lxc => format!("ct-{vmid}.mtunnel"),
        });
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.settings.dir.join(format!("{vmid}.log")))
            .map_err(WorkerError::Log)?;
        let mut child = Command::new("perl")
            .arg(&self.settings.program)
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
        tokio::spawn(copy_to_log(lines, log));
        let pid = child.id().unwrap_or_default();
        running.insert(
            vmid,
            Running {
                kind,
                child,
                stdin: Some(stdin),
                socket: socket.clone(),
            },
        );
        Ok(Started { socket, pid })
    }

    /// The guests whose worker runs.
    pub(crate) async fn running(&self) -> BTreeSet<u32> {
        let mut running = self.running.lock().await;
        let alive = |worker: &mut Running| !matches!(worker.child.try_wait(), Ok(Some(_)));
        running
            .iter_mut()
            .filter_map(|(vmid, worker)| alive(worker).then_some(*vmid))
            .collect()
    }

    /// The kind of a guest that has or had a tunnel.
    pub(crate) async fn kind(&self, vmid: u32) -> Option<Kind> {
        let running = self.running.lock().await;
        running.get(&vmid).map(|worker| worker.kind)
    }

    /// Whether `path` is the command socket of a tunnel and not a data socket.
    pub(crate) async fn is_control(&self, path: &Path) -> bool {
        self.running
            .lock()
            .await
            .values()
            .any(|worker| worker.socket == path)
    }

    /// Stops the worker of a task as Proxmox VE does: SIGTERM, and SIGKILL if it does not exit.
    pub(crate) async fn stop_task(&self, pid: u32) {
        let mut running = self.running.lock().await;
        let worker = running
            .values_mut()
            .find(|worker| worker.child.id() == Some(pid));
        // A task that has ended is stopped.
        let Some(worker) = worker else { return };
        // Fails only if it has exited.
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        if timeout(STOP_LIMIT, worker.child.wait()).await.is_err() {
            let _ = worker.child.kill().await;
        }
    }

    /// Stops all workers: closes their stdin, and kills those that do not exit within the limit.
    pub(crate) async fn stop(&self) {
        let mut running = self.running.lock().await;
        for worker in running.values_mut() {
            worker.stdin = None;
        }
        for (vmid, worker) in running.iter_mut() {
            if timeout(END_LIMIT, worker.child.wait()).await.is_err() {
                crate::log(&format!("worker {vmid}: killed because it did not exit"));
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
            "node": self.settings.node,
            "dir": self.settings.dir,
            "user": self.settings.user,
            "ticket_key": self.settings.ticket_key,
            "old": self.settings.profile.old,
            "no_direct": self.settings.profile.no_direct,
            "no_privilege": self.settings.profile.no_privilege,
            "configuration": self.settings.profile.configuration,
            "params": params,
        })
    }
}

type Pipes = (ChildStdin, Lines<BufReader<ChildStdout>>);

/// Sends the request to the worker and waits for its ready line. The error is a message.
async fn ready(child: &mut Child, request: &Value) -> Result<Pipes, String> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("it has no pipes".to_owned());
    };
    let line = format!("{request}\n");
    stdin
        .write_all(line.as_bytes())
        .await
        .map_err(|error| format!("cannot write to its stdin: {error}"))?;
    let mut lines = BufReader::new(stdout).lines();
    let first = lines.next_line().await.map_err(|error| error.to_string())?;
    let Some(first) = first else {
        return Err("it exited without a ready line, see its log".to_owned());
    };
    match serde_json::from_str::<Value>(&first) {
        Ok(answer) if answer.get("ready").and_then(Value::as_u64) == Some(1) => Ok((stdin, lines)),
        _ => Err("its first line was not {\"ready\":1}, see its log".to_owned()),
    }
}

/// Appends what a worker prints after its ready line to its log.
async fn copy_to_log(mut lines: Lines<BufReader<ChildStdout>>, mut log: File) {
    while let Ok(Some(line)) = lines.next_line().await {
        if writeln!(log, "{line}").is_err() {
            return;
        }
    }
}
