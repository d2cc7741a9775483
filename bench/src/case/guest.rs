//! A real guest: what QEMU moves its RAM and its disk with, through a tunnel and without.
//!
//! The guest does not run, so every turn moves the same bytes, all of them random. The figures are
//! QEMU's: RAM is a migration, a disk is a mirror to an NBD export, as PVE has them.

use crate::measure::{Clocks, Contender, Contest, Effort, Goal, Row, Sample, Title, rate};
use crate::path::{Tunnel, direct};
use crate::peer::node::{Front, Node};
use crate::qemu::{PROGRAM, Qemu};
use nix::fcntl::{FallocateFlags, fallocate};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;
use testing::seam::Crossing;

/// Of RAM, and of the disk.
const BYTES: u64 = 1 << 30;
const AT_LEAST: u64 = 64 << 20;

/// Where random RAM begins, and how much there is behind it: what BIOS and its tables may use.
const APART: u64 = 16 << 20;

/// Files are kept in memory: this is about the way, not about a disk.
const MEMORY: &str = "/dev/shm";

const OURS: &str = "pve-tunnel";

pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    let mut found = Command::new(PROGRAM);
    found.arg("--version").stdout(Stdio::null());
    if !found.status().is_ok_and(|status| status.success()) {
        return Err(format!("needs {PROGRAM}"));
    }
    let stage = Stage::new(effort.bytes(BYTES).max(AT_LEAST));
    let mut rows = Vec::new();
    for (name, peer, turn) in [
        ("RAM", "QEMU to QEMU", Stage::migrate as Turn),
        ("NBD", "bare NBD", Stage::mirror),
    ] {
        for (plane, goal) in [
            ("tls", Some(Goal::AtLeast(0.8))),
            ("tcp", None),
            ("websocket", None),
        ] {
            let mut tunnel = match Way::on(plane) {
                Ok(tunnel) => tunnel,
                Err(reason) => {
                    println!("  left out: {plane}: {reason}");
                    continue;
                }
            };
            let mut none = Way::Bare;
            let (mut ours, mut theirs) = (Checked::new(turn), Checked::new(turn));
            let contest = Contest::hold(
                effort.runs(),
                vec![
                    Contender::new(OURS, || ours.turn(&stage, &mut tunnel)),
                    Contender::new(peer, || theirs.turn(&stage, &mut none)),
                ],
            );
            let name = format!("{name}, {plane}");
            let title = Title {
                case: "guest",
                name: &name,
                unit: "MB/s",
            };
            rows.push(contest.row(title, peer, goal, |sample| sample.value));
        }
    }
    Ok(rows)
}

/// One turn, after which it may be seen whether everything is there.
type Turn = fn(&Stage, &mut Way, check: bool) -> Sample;

/// Turns of which the first, which does not count, is checked.
struct Checked {
    turn: Turn,
    is_checked: bool,
}

impl Checked {
    fn new(turn: Turn) -> Self {
        Self {
            turn,
            is_checked: false,
        }
    }

    fn turn(&mut self, stage: &Stage, way: &mut Way) -> Sample {
        let check = !std::mem::replace(&mut self.is_checked, true);
        (self.turn)(stage, way, check)
    }
}

/// How a QEMU reaches the other one.
enum Way {
    /// By TCP of its own.
    Bare,
    /// By UNIX sockets at the ends of a tunnel.
    Direct(Box<Crossing>),
    Websocket(Box<Node>),
}

impl Way {
    fn on(plane: &str) -> Result<Self, String> {
        Ok(match plane {
            "websocket" => Self::Websocket(Box::new(Node::start(Front::TestNode)?)),
            _ => Self::Direct(Box::new(direct(plane))),
        })
    }

    /// Where the target's QEMU is to listen, and where the source's finds it (QMP's SocketAddress).
    fn addresses(&mut self, site: &Path) -> (Value, Value) {
        match self {
            Self::Bare => {
                // Nobody else takes it: this network is our own.
                let free = TcpListener::bind("127.0.0.1:0").unwrap();
                let port = free.local_addr().unwrap().port().to_string();
                let address = json!({ "type": "inet", "host": "127.0.0.1", "port": port });
                (address.clone(), address)
            }
            Self::Direct(crossing) => {
                let forward = |path: &Path| {
                    let far = path.to_str().unwrap();
                    crossing.connector.forward(&crossing.target, far)
                };
                unix_addresses(site, forward)
            }
            Self::Websocket(node) => unix_addresses(site, |path| node.forward(path)),
        }
    }

    /// All that bytes pass.
    fn clocks(&self, source: &Qemu, target: &Qemu) -> Clocks {
        let mut processes = match self {
            Self::Bare => vec![],
            Self::Direct(crossing) => crossing.processes(),
            Self::Websocket(node) => node.processes(),
        };
        processes.push(("QEMU source", source.pid()));
        processes.push(("QEMU target", target.pid()));
        Clocks::new(processes)
    }
}

/// A socket of the target's, and the one that stands for it.
fn unix_addresses(site: &Path, forward: impl FnOnce(&Path) -> PathBuf) -> (Value, Value) {
    let far = site.join("far.sock");
    let near = forward(&far);
    let [far, near] = [far, near].map(|path| json!({ "type": "unix", "path": path }));
    (far, near)
}

/// What all guests are made of.
struct Stage {
    bytes: u64,
    directory: TempDir,
}

impl Stage {
    fn new(bytes: u64) -> Self {
        let directory = tempfile::tempdir_in(MEMORY).unwrap();
        let stage = Self { bytes, directory };
        for file in [stage.ram(), stage.disk()] {
            let mut random = File::open("/dev/urandom").unwrap().take(bytes);
            std::io::copy(&mut random, &mut File::create(file).unwrap()).unwrap();
        }
        stage
    }

    fn ram(&self) -> PathBuf {
        self.directory.path().join("ram")
    }

    fn disk(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// A guest with this disk. Its RAM is there before it is written to: to make room for it is most
    /// of what a target does, and on a shared machine takes now this long and now that.
    fn guest(&self, disk: &Path, more: &[String]) -> Qemu {
        let file = format!("driver=file,node-name=disk,filename={}", disk.display());
        let size = self.bytes + 2 * APART;
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

    /// The other guest, with an empty disk for which there is room as well.
    fn target(&self, site: &Path) -> Qemu {
        let disk = site.join("disk");
        let length = i64::try_from(self.bytes).unwrap();
        let file = File::create(&disk).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, length).unwrap();
        self.guest(&disk, &["-incoming".to_owned(), "defer".to_owned()])
    }

    /// Where the files of one turn are.
    fn site(&self) -> TempDir {
        tempfile::tempdir_in(self.directory.path()).unwrap()
    }

    /// Moves the RAM.
    fn migrate(&self, way: &mut Way, check: bool) -> Sample {
        let site = self.site();
        let (far, near) = way.addresses(site.path());
        let load = format!(
            "loader,file={},addr={APART},force-raw=on",
            self.ram().display()
        );
        let mut source = self.guest(&self.disk(), &["-device".to_owned(), load]);
        let mut target = self.target(site.path());
        for qemu in [&mut source, &mut target] {
            let events = json!({ "capability": "events", "state": true });
            qemu.ask(
                "migrate-set-capabilities",
                &json!({ "capabilities": [events] }),
            );
        }
        // As fast as it can, and not by QEMU's default of 1 Gbit/s.
        source.ask(
            "migrate-set-parameters",
            &json!({ "max-bandwidth": 1_u64 << 40 }),
        );
        target.ask("migrate-incoming", &json!({ "channels": [channel(far)] }));

        let clocks = way.clocks(&source, &target);
        let (time, cpu) = clocks.cost(self.bytes, || {
            let started = Instant::now();
            source.ask("migrate", &json!({ "channels": [channel(near)] }));
            let completed = |data: &Value| data["status"] == "completed";
            target.wait_for("MIGRATION", completed);
            let time = started.elapsed();
            source.wait_for("MIGRATION", completed);
            time
        });
        if check {
            let copy = site.path().join("ram");
            let all = json!({ "val": APART, "size": self.bytes, "filename": copy });
            target.ask("pmemsave", &all);
            assert_same(&self.ram(), &copy);
        }
        Sample {
            cpu,
            ..Sample::of(rate(self.bytes, time))
        }
    }

    /// Moves the disk.
    fn mirror(&self, way: &mut Way, check: bool) -> Sample {
        let site = self.site();
        let (far, near) = way.addresses(site.path());
        let mut source = self.guest(&self.disk(), &[]);
        let mut target = self.target(site.path());
        target.ask("nbd-server-start", &json!({ "addr": legacy(far) }));
        let export = json!({ "type": "nbd", "id": "disk", "node-name": "disk", "writable": true });
        target.ask("block-export-add", &export);
        let there =
            json!({ "driver": "nbd", "node-name": "there", "server": near, "export": "disk" });
        source.ask("blockdev-add", &there);

        let clocks = way.clocks(&source, &target);
        let (time, cpu) = clocks.cost(self.bytes, || {
            let started = Instant::now();
            let job =
                json!({ "job-id": "mirror", "device": "disk", "target": "there", "sync": "full" });
            source.ask("blockdev-mirror", &job);
            source.wait_for("BLOCK_JOB_READY", |data| data["device"] == "mirror");
            started.elapsed()
        });
        source.ask("block-job-cancel", &json!({ "device": "mirror" }));
        source.wait_for("BLOCK_JOB_COMPLETED", |data| data["device"] == "mirror");
        if check {
            assert_same(&self.disk(), &site.path().join("disk"));
        }
        Sample {
            cpu,
            ..Sample::of(rate(self.bytes, time))
        }
    }
}

/// What `migrate` calls an address.
fn channel(mut address: Value) -> Value {
    address["transport"] = "socket".into();
    json!({ "channel-type": "main", "addr": address })
}

/// What the NBD server calls an address.
fn legacy(mut address: Value) -> Value {
    let kind = address.as_object_mut().unwrap().remove("type");
    json!({ "type": kind, "data": address })
}

fn assert_same(sent: &Path, arrived: &Path) {
    let [mut sent, mut arrived] = [sent, arrived].map(|path| File::open(path).unwrap());
    let length = sent.metadata().unwrap().len();
    assert_eq!(length, arrived.metadata().unwrap().len());
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for _ in 0..length >> 20 {
        sent.read_exact(&mut one).unwrap();
        arrived.read_exact(&mut other).unwrap();
        assert!(one == other, "not what was sent has arrived");
    }
}
