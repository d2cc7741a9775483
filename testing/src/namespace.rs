//! Network namespaces of a test's own.
//!
//! Needs the right to make one (root); says that it was skipped otherwise.

use crate::skipped;
use nix::unistd::Pid;
use std::io;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Runs the test in a network namespace that nobody else has, and which ends with it. A thread has
/// one of its own if it asks for it; the programs it starts inherit it.
#[track_caller]
pub fn within(test: impl FnOnce() + Send + 'static) {
    let inside = thread::spawn(|| {
        if let Err(error) = unshare() {
            return Some(error);
        }
        run("ip link set lo up");
        test();
        None
    });
    match inside.join() {
        Ok(None) => {}
        Ok(Some(error)) => skipped("all of it: cannot make a network namespace", &error),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Gives this thread a network namespace of its own, which ends with it.
// There is no safe interface to unshare(2).
#[allow(unsafe_code)]
pub fn unshare() -> io::Result<()> {
    // SAFETY: changes nothing but the network namespace of this thread.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, which does there what it is asked to.
#[derive(Clone)]
pub struct Elsewhere {
    jobs: mpsc::Sender<Job>,
    thread: Pid,
}

impl Elsewhere {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (born, birth) = mpsc::channel();
        thread::spawn(move || {
            unshare().unwrap();
            born.send(nix::unistd::gettid()).unwrap();
            for job in queue {
                job();
            }
        });
        let thread = birth.recv().unwrap();
        let elsewhere = Self { jobs, thread };
        elsewhere.there(|| run("ip link set lo up"));
        elsewhere
    }

    /// Does something there, and waits for it. Threads and programs that it starts stay there.
    pub fn there<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || {
            // Only fails if nobody waits any more.
            let _ = done.send(job());
        };
        self.jobs.send(Box::new(job)).unwrap();
        result.recv().unwrap()
    }

    /// What the namespace is called by: `ip link ... netns` takes it.
    pub fn thread(&self) -> Pid {
        self.thread
    }
}

/// Gives an interface its addresses, and waits until they can be used: the kernel makes their routes
/// by and by.
pub fn add_addresses(interface: &str, addresses: &[&str]) {
    wait_for(&format!("ip -o link show dev {interface}"), "state UP");
    for address in addresses {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        run(&format!("ip addr add {address} dev {interface} {nodad}"));
        let (address, _) = address.split_once('/').unwrap();
        wait_for(&format!("ip -o route get {address}"), "local ");
    }
}

fn wait_for(command: &str, words: &str) {
    let limit = Instant::now() + Duration::from_secs(60);
    let mut words_of = command.split_whitespace();
    let mut program = Command::new(words_of.next().unwrap());
    program.args(words_of);
    while !String::from_utf8_lossy(&program.output().unwrap().stdout).contains(words) {
        assert!(Instant::now() < limit, "{command}: never {words}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
