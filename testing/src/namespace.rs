//! A network namespace for each test.
//!
//! Only root may create one. For other users, the test reports that it was skipped.

use crate::{report_skipped, wait_until};
use nix::unistd::Pid;
use std::io;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Runs a test in a new network namespace, which ends with the test. A network namespace belongs to
/// a thread, and the programs that the thread starts inherit it.
#[track_caller]
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    try_in_namespace(|| {
        test();
        Ok(())
    });
}

/// The same for a test that may find that it has to be skipped. Its error is the reason.
#[track_caller]
pub(crate) fn try_in_namespace(test: impl FnOnce() -> Result<(), String> + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare().map_err(|error| format!("cannot make a network namespace: {error}"))?;
        run("ip link set lo up");
        test()
    });
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => report_skipped("all of it", &reason),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Moves this thread to a new network namespace, which ends with the thread.
// No crate in use has a safe interface to unshare(2).
#[allow(unsafe_code)]
pub fn unshare() -> io::Result<()> {
    // SAFETY: with this flag, unshare(2) changes only the network namespace of the calling thread.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a new network namespace, which runs jobs.
#[derive(Clone)]
pub struct NamespaceThread {
    jobs: mpsc::Sender<Job>,
    thread: Pid,
}

impl NamespaceThread {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (started, starts) = mpsc::channel();
        thread::spawn(move || {
            unshare().unwrap();
            started.send(nix::unistd::gettid()).unwrap();
            for job in queue {
                job();
            }
        });
        let thread = starts.recv().unwrap();
        let namespace = Self { jobs, thread };
        namespace.execute(|| run("ip link set lo up"));
        namespace
    }

    /// Runs a job in the namespace and returns its result. Threads and programs that the job starts
    /// stay in the namespace.
    pub fn execute<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || {
            // Fails only if the caller no longer waits.
            let _ = done.send(job());
        };
        self.jobs.send(Box::new(job)).unwrap();
        result.recv().unwrap()
    }

    /// The thread's ID, which names the namespace in `ip link ... netns`.
    pub fn thread(&self) -> Pid {
        self.thread
    }
}

/// Adds addresses to an interface and waits until they are usable: the kernel adds their routes
/// some time later.
pub fn add_addresses(interface: &str, addresses: &[&str]) {
    wait_for(&format!("ip -o link show dev {interface}"), "state UP");
    for address in addresses {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        run(&format!("ip addr add {address} dev {interface} {nodad}"));
        let (address, _) = address.split_once('/').unwrap();
        wait_for(&format!("ip -o route get {address}"), "local ");
    }
}

/// Time limit for a command, and for what it reports to become as expected.
const LIMIT: Duration = Duration::from_secs(60);

fn wait_for(command: &str, expected: &str) {
    let limit = Instant::now() + LIMIT;
    let mut program = limited(command);
    while !String::from_utf8_lossy(&program.output().unwrap().stdout).contains(expected) {
        assert!(Instant::now() < limit, "{command}: never {expected}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The packets of one TCP connection of this thread's namespace vanish while this exists. No end
/// notices it.
pub struct DeadPath {
    rules: [String; 2],
}

impl DeadPath {
    /// That of the connection with the most data on its way, of those that `is_candidate` selects.
    /// Waits until there is one.
    pub fn of_busiest(is_candidate: impl Fn(&TcpSocket) -> bool) -> Self {
        // Data, not a heartbeat.
        const LEAST: usize = 4096;
        let mut local = 0;
        wait_until("a connection has data on its way", || {
            let candidates = tcp_sockets().into_iter().filter(&is_candidate);
            let busiest = candidates.max_by_key(|socket| socket.unacknowledged);
            local = busiest.map_or(0, |socket| socket.local_port);
            busiest.is_some_and(|socket| socket.unacknowledged >= LEAST)
        });
        // Without it, the kernel delivers to the node's own addresses before it reads any other rule.
        run("ip rule add pref 10 lookup local");
        run("ip rule del pref 0");
        let rules = ["sport", "dport"]
            .map(|selector| format!("pref 5 ipproto tcp {selector} {local} blackhole"));
        for rule in &rules {
            run(&format!("ip rule add {rule}"));
        }
        Self { rules }
    }
}

impl Drop for DeadPath {
    fn drop(&mut self) {
        for rule in &self.rules {
            run(&format!("ip rule del {rule}"));
        }
        run("ip rule add pref 0 lookup local");
        run("ip rule del pref 10");
    }
}

/// A TCP socket, as the kernel's table shows it.
#[derive(Clone, Copy, Debug)]
pub struct TcpSocket {
    pub local_port: u16,
    pub remote_port: u16,
    pub is_established: bool,
    /// Bytes that were written, and that the other end has not acknowledged.
    pub unacknowledged: usize,
}

/// The IPv4 sockets of this thread's namespace.
pub fn tcp_sockets() -> Vec<TcpSocket> {
    // /proc/net/tcp (man 5 proc): number, local address, remote address, state, queues.
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let port = |address: &str| {
        let (_, port) = address.split_once(':').unwrap();
        u16::from_str_radix(port, 16).unwrap()
    };
    let rows = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.map(|row| {
        let (unacknowledged, _) = row[4].split_once(':').unwrap();
        TcpSocket {
            local_port: port(row[1]),
            remote_port: port(row[2]),
            is_established: row[3] == "01",
            unacknowledged: usize::from_str_radix(unacknowledged, 16).unwrap(),
        }
    })
    .collect()
}

pub fn run(command: &str) {
    let output = limited(command).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A command with a time limit.
fn limited(command: &str) -> Command {
    let mut limited = Command::new("timeout");
    limited
        .arg(LIMIT.as_secs().to_string())
        .args(command.split_whitespace());
    limited
}
