//! The ports that Proxmox VE has reserved, in files of the test.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use pve_tunnel::network::{NetworkError, Reservations, bind_port_on};
use tempfile::TempDir;

struct Node {
    directory: TempDir,
    address: IpAddr,
}

impl Node {
    /// A node whose ports no other test uses.
    fn new(test: u8) -> Self {
        let process = std::process::id();
        Self {
            directory: tempfile::tempdir().unwrap(),
            address: IpAddr::from([127, test, (process >> 8) as u8, process as u8 | 1]),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn reserve(&self, text: &str) {
        fs::write(self.path("reserved"), text).unwrap();
    }

    fn bind(&self) -> Result<pve_tunnel::network::BoundAddresses, NetworkError> {
        self.bind_within(Duration::from_secs(5))
    }

    fn bind_within(
        &self,
        timeout: Duration,
    ) -> Result<pve_tunnel::network::BoundAddresses, NetworkError> {
        let reservations = Reservations::at(&self.path("lock"), &self.path("reserved"), timeout);
        bind_port_on(&[self.address], &reservations)
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

#[test]
fn a_port_that_is_reserved_and_not_bound_yet_is_not_taken() {
    let node = Node::new(111);
    let now = now();
    node.reserve(&format!("60000 {now}\n60001 {}\n5901 {now}\n", now - 60));
    assert_eq!(node.bind().unwrap().port, 60001);
    // Proxmox VE replaces the file, which belongs to it.
    let text = fs::read_to_string(node.path("reserved")).unwrap();
    assert!(text.starts_with(&format!("60000 {now}\n")), "{text}");
    // The lock is free again.
    assert_eq!(node.bind_within(Duration::ZERO).unwrap().port, 60001);
}

#[test]
fn reserved_ports_are_named_if_there_is_no_other() {
    let node = Node::new(112);
    let now = now();
    let all = (60000..60050).map(|port| format!("{port} {now}\n"));
    node.reserve(&all.collect::<String>());
    let error = node.bind().unwrap_err().to_string();
    let expected = "(Proxmox VE has reserved 50 of them for some seconds)";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_lock_that_another_process_holds_is_waited_for_and_the_wait_is_bounded() {
    let node = Node::new(113);
    let open = || File::create(node.path("lock")).unwrap();
    let held = Flock::lock(open(), FlockArg::LockExclusive).unwrap();
    let started = Instant::now();
    let error = node.bind_within(Duration::from_millis(100)).unwrap_err();
    assert!(started.elapsed() >= Duration::from_millis(100));
    let expected = format!(
        "cannot read the ports that Proxmox VE has reserved: lock '{}': another process has held it for 100ms",
        node.path("lock").display()
    );
    assert_eq!(error.to_string(), expected);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| node.bind_within(Duration::from_secs(60)));
        drop(held);
        assert_eq!(waiting.join().unwrap().unwrap().port, 60000);
    });
}

#[test]
fn links_and_other_files_in_a_shared_directory_are_not_followed() {
    let node = Node::new(114);
    let victim = node.path("victim");
    let reserved = format!("60000 {}\n", now());
    fs::write(&victim, &reserved).unwrap();
    symlink(&victim, node.path("reserved")).unwrap();
    assert_eq!(node.bind().unwrap().port, 60000);
    assert_eq!(fs::read_to_string(&victim).unwrap(), reserved);

    fs::remove_file(node.path("lock")).unwrap();
    symlink(&victim, node.path("lock")).unwrap();
    let error = node.bind().unwrap_err();
    assert!(matches!(error, NetworkError::PortLock { .. }), "{error}");

    for name in ["lock", "reserved"] {
        fs::remove_file(node.path(name)).unwrap();
    }
    nix::unistd::mkfifo(&node.path("reserved"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A reader of the FIFO would wait for its writer. The port of the first bind is free again.
    assert_eq!(node.bind().unwrap().port, 60000);
}

#[test]
fn without_a_directory_for_the_lock_ports_are_bound() {
    let node = Node::new(115);
    let absent = node.path("absent");
    let reservations = Reservations::at(
        &absent.join("lock"),
        Path::new("/nonexistent/reserved"),
        Duration::from_secs(5),
    );
    let bound = bind_port_on(&[node.address], &reservations).unwrap();
    assert_eq!(bound.port, 60000);
    assert!(!absent.exists());
}

#[test]
fn one_port_is_free_on_every_address() {
    let node = Node::new(116);
    let other = Node::new(117);
    let taken = other.bind().unwrap();
    let reservations = Reservations::at(
        &node.path("lock"),
        &node.path("reserved"),
        Duration::from_secs(5),
    );
    let addresses = [node.address, other.address];
    let bound = bind_port_on(&addresses, &reservations).unwrap();
    assert_eq!((taken.port, bound.port), (60000, 60001));
    let listening: Vec<IpAddr> = bound
        .listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().ip())
        .collect();
    assert_eq!(listening, addresses);
}
