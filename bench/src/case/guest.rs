//! A real guest. QEMU moves its RAM and its disk, through a tunnel and without one.
//!
//! The guest is paused, so every turn moves the same random bytes. RAM moves by a migration, the
//! disk by a mirror to an NBD export, as in Proxmox VE.

use crate::measure::{Clocks, Contender, Contest, Effort, Goal, Rows, STOCK, Sample, Title, rate};
use crate::peer::node::{Front, Node};
use crate::plane::direct;
use crate::qemu::{PROGRAM, Qemu};
use crate::tunnel::Tunnel;
use nix::fcntl::{FallocateFlags, fallocate};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;
use testing::seam::NegotiatedTunnel;

/// The size of the RAM, and of the disk, in bytes.
const BYTES: u64 = 1 << 30;
const AT_LEAST: u64 = 64 << 20;

/// The address at which the random bytes in RAM start, and the size of the RAM after them. The BIOS
/// and its tables may use these two areas.
const RESERVED: u64 = 16 << 20;

/// Files are in memory, because the case measures the path and not a disk.
const MEMORY: &str = "/dev/shm";

const OURS: &str = "pve-tunnel";

/// A plane, with the goals against QEMU alone and against `STOCK`.
struct Plane {
    name: &'static str,
    against_bare: Option<Goal>,
    against_stock: Option<Goal>,
}

const PLANES: [Plane; 3] = [
    Plane {
        name: "tls",
        against_bare: Some(Goal::AtLeast(0.8)),
        against_stock: Some(Goal::AtLeast(1.5)),
    },
    Plane {
        name: "tcp",
        against_bare: None,
        against_stock: None,
    },
    Plane {
        name: TO_TEST_NODE,
        against_bare: None,
        against_stock: None,
    },
];

const TO_TEST_NODE: &str = "websocket to test node";

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    let mut version = Command::new(PROGRAM);
    version.arg("--version").stdout(Stdio::null());
    if !version.status().is_ok_and(|status| status.success()) {
        return Err(format!("needs {PROGRAM}"));
    }
    let has_stock = match Node::start(Front::Pveproxy) {
        Ok(_) => true,
        Err(reason) => {
            crate::output::line(format_args!("  skipped: {STOCK}: {reason}"));
            false
        }
    };
    let setup = Setup::new(effort.bytes(BYTES).max(AT_LEAST));
    for (kind, peer, turn) in [
        ("RAM", "QEMU to QEMU", Setup::migrate as Turn),
        ("NBD", "bare NBD", Setup::mirror),
    ] {
        for plane in &PLANES {
            let mut tunnel = match Transport::on(plane.name) {
                Ok(tunnel) => tunnel,
                Err(reason) => {
                    crate::output::line(format_args!("  skipped: {}: {reason}", plane.name));
                    continue;
                }
            };
            let mut bare = Transport::Bare;
            let mut turns = [OURS, peer, STOCK].map(|_| Turns::new(turn));
            let [ours, theirs, stock] = &mut turns;
            let mut contenders = vec![
                Contender::new(OURS, || ours.run(&setup, &mut tunnel)),
                Contender::new(peer, || theirs.run(&setup, &mut bare)),
            ];
            // Both would be websockets, which differ only in the target's program.
            let with_stock = has_stock && plane.name != TO_TEST_NODE;
            if with_stock {
                contenders.push(Contender::new(STOCK, || {
                    stock.run(&setup, &mut Transport::stock())
                }));
            }
            let contest = Contest::run(effort.turns(), contenders);
            let name = format!("{kind}, {}", plane.name);
            let title = Title {
                case: "guest",
                name: &name,
                unit: "MB/s",
            };
            let speed = |sample: &Sample| sample.value;
            rows.push(contest.row(title, peer, plane.against_bare, speed));
            if with_stock {
                rows.push(contest.row(title, STOCK, plane.against_stock, speed));
            }
        }
    }
    Ok(())
}

/// One turn. If `check` is set, it compares the copy with the original.
type Turn = fn(&Setup, &mut Transport, check: bool) -> Sample;

/// The turns of a contender. Only the first one, which does not count, checks the copy.
struct Turns {
    turn: Turn,
    is_checked: bool,
}

impl Turns {
    fn new(turn: Turn) -> Self {
        Self {
            turn,
            is_checked: false,
        }
    }

    fn run(&mut self, setup: &Setup, transport: &mut Transport) -> Sample {
        let check = !std::mem::replace(&mut self.is_checked, true);
        (self.turn)(setup, transport, check)
    }
}

/// How the source's QEMU reaches the target's.
enum Transport {
    /// Through a TCP connection of their own.
    Bare,
    /// Through UNIX sockets at the ends of a tunnel.
    Direct(Box<NegotiatedTunnel>),
    Websocket(Box<Node>),
}

impl Transport {
    fn on(plane: &str) -> Result<Self, String> {
        Ok(match plane {
            TO_TEST_NODE => Self::Websocket(Box::new(Node::start(Front::TestNode)?)),
            _ => Self::Direct(Box::new(direct(plane))),
        })
    }

    /// A new pveproxy, whose buffers are empty.
    fn stock() -> Self {
        Self::Websocket(Box::new(Node::start(Front::Pveproxy).unwrap()))
    }

    /// The address on which the target's QEMU listens, and the one to which the source's QEMU
    /// connects (QMP's SocketAddress).
    fn addresses(&mut self, directory: &Path) -> (Value, Value) {
        match self {
            Self::Bare => {
                // The port stays free: no other program uses this network namespace.
                let free = TcpListener::bind("127.0.0.1:0").unwrap();
                let port = free.local_addr().unwrap().port().to_string();
                let address = json!({ "type": "inet", "host": "127.0.0.1", "port": port });
                (address.clone(), address)
            }
            Self::Direct(tunnel) => {
                let forward = |remote: &Path| {
                    let remote = remote.to_str().unwrap();
                    tunnel.connector.forward(&tunnel.target, remote)
                };
                unix_addresses(directory, forward)
            }
            Self::Websocket(node) => unix_addresses(directory, |remote| node.forward(remote)),
        }
    }

    /// The clocks of all processes in the path.
    fn clocks(&self, source: &Qemu, target: &Qemu) -> Clocks {
        let mut processes = match self {
            Self::Bare => vec![],
            Self::Direct(tunnel) => tunnel.processes(),
            Self::Websocket(node) => node.processes(),
        };
        processes.push(("QEMU source", source.pid()));
        processes.push(("QEMU target", target.pid()));
        Clocks::new(processes)
    }
}

/// A socket of the target, and the source's socket that is forwarded to it.
fn unix_addresses(directory: &Path, forward: impl FnOnce(&Path) -> PathBuf) -> (Value, Value) {
    let remote = directory.join("remote.sock");
    let local = forward(&remote);
    let [remote, local] = [remote, local].map(|path| json!({ "type": "unix", "path": path }));
    (remote, local)
}

/// The files that all guests use.
struct Setup {
    bytes: u64,
    directory: TempDir,
}

impl Setup {
    fn new(bytes: u64) -> Self {
        let directory = tempfile::tempdir_in(MEMORY).unwrap();
        let setup = Self { bytes, directory };
        for file in [setup.ram(), setup.disk()] {
            let mut random = File::open("/dev/urandom").unwrap().take(bytes);
            std::io::copy(&mut random, &mut File::create(file).unwrap()).unwrap();
        }
        setup
    }

    fn ram(&self) -> PathBuf {
        self.directory.path().join("ram")
    }

    fn disk(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// Starts a guest with this disk. Its RAM is allocated in advance: allocation would be most of
    /// the target's work, and its duration varies on a shared machine.
    fn guest(&self, disk: &Path, more: &[String]) -> Qemu {
        let file = format!("driver=file,node-name=disk,filename={}", disk.display());
        let size = self.bytes + 2 * RESERVED;
        let memory = format!("memory-backend-ram,id=ram,size={size},prealloc=on");
        let words = [
            "-m",
            &(size >> 20).to_string(),
            "-object",
            &memory,
            "-machine",
            "memory-backend=ram",
            "-blockdev",
            &file,
            "-device",
            "virtio-blk-pci,drive=disk",
        ];
        let words = words.map(str::to_owned);
        Qemu::start(&[&words, more].concat())
    }

    /// Starts the target's guest. The space for its empty disk is allocated, too.
    fn target(&self, directory: &Path) -> Qemu {
        let disk = directory.join("disk");
        let length = i64::try_from(self.bytes).unwrap();
        let file = File::create(&disk).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, length).unwrap();
        self.guest(&disk, &["-incoming".to_owned(), "defer".to_owned()])
    }

    /// A new directory for the files of one turn.
    fn turn_directory(&self) -> TempDir {
        tempfile::tempdir_in(self.directory.path()).unwrap()
    }

    /// Moves the RAM.
    fn migrate(&self, transport: &mut Transport, check: bool) -> Sample {
        let directory = self.turn_directory();
        let (remote, local) = transport.addresses(directory.path());
        let load = format!(
            "loader,file={},addr={RESERVED},force-raw=on",
            self.ram().display()
        );
        let mut source = self.guest(&self.disk(), &["-device".to_owned(), load]);
        let mut target = self.target(directory.path());
        for qemu in [&mut source, &mut target] {
            let events = json!({ "capability": "events", "state": true });
            qemu.execute(
                "migrate-set-capabilities",
                &json!({ "capabilities": [events] }),
            );
        }
        // QEMU's default limit is 1 Gbit/s.
        source.execute(
            "migrate-set-parameters",
            &json!({ "max-bandwidth": 1_u64 << 40 }),
        );
        target.execute(
            "migrate-incoming",
            &json!({ "channels": [channel(remote)] }),
        );

        let clocks = transport.clocks(&source, &target);
        let (time, cpu) = clocks.cost(self.bytes, || {
            let started = Instant::now();
            source.execute("migrate", &json!({ "channels": [channel(local)] }));
            let completed = |data: &Value| data["status"] == "completed";
            target.wait_for("MIGRATION", completed);
            let time = started.elapsed();
            source.wait_for("MIGRATION", completed);
            time
        });
        if check {
            let copy = directory.path().join("ram");
            let all = json!({ "val": RESERVED, "size": self.bytes, "filename": copy });
            target.execute("pmemsave", &all);
            assert_same(&self.ram(), &copy);
        }
        Sample {
            cpu,
            ..Sample::of(rate(self.bytes, time))
        }
    }

    /// Moves the disk.
    fn mirror(&self, transport: &mut Transport, check: bool) -> Sample {
        let directory = self.turn_directory();
        let (remote, local) = transport.addresses(directory.path());
        let mut source = self.guest(&self.disk(), &[]);
        let mut target = self.target(directory.path());
        target.execute("nbd-server-start", &json!({ "addr": legacy(remote) }));
        let export = json!({ "type": "nbd", "id": "disk", "node-name": "disk", "writable": true });
        target.execute("block-export-add", &export);
        let copy =
            json!({ "driver": "nbd", "node-name": "copy", "server": local, "export": "disk" });
        source.execute("blockdev-add", &copy);

        let clocks = transport.clocks(&source, &target);
        let (time, cpu) = clocks.cost(self.bytes, || {
            let started = Instant::now();
            let job =
                json!({ "job-id": "mirror", "device": "disk", "target": "copy", "sync": "full" });
            source.execute("blockdev-mirror", &job);
            source.wait_for("BLOCK_JOB_READY", |data| data["device"] == "mirror");
            started.elapsed()
        });
        source.execute("block-job-cancel", &json!({ "device": "mirror" }));
        source.wait_for("BLOCK_JOB_COMPLETED", |data| data["device"] == "mirror");
        if check {
            assert_same(&self.disk(), &directory.path().join("disk"));
        }
        Sample {
            cpu,
            ..Sample::of(rate(self.bytes, time))
        }
    }
}

/// An address in the form that `migrate` requires.
fn channel(mut address: Value) -> Value {
    address["transport"] = "socket".into();
    json!({ "channel-type": "main", "addr": address })
}

/// An address in the form that the NBD server requires.
fn legacy(mut address: Value) -> Value {
    let kind = address.as_object_mut().unwrap().remove("type");
    json!({ "type": kind, "data": address })
}

fn assert_same(sent: &Path, received: &Path) {
    let [mut sent, mut received] = [sent, received].map(|path| File::open(path).unwrap());
    let length = sent.metadata().unwrap().len();
    assert_eq!(length, received.metadata().unwrap().len());
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for _ in 0..length >> 20 {
        sent.read_exact(&mut one).unwrap();
        received.read_exact(&mut other).unwrap();
        assert!(one == other, "the copy differs from the original");
    }
}
