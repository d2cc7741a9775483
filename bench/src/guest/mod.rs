//! A real guest. QEMU moves its RAM and its disk, through a tunnel or without one.
//!
//! The guest is paused, so every turn moves the same bytes. RAM moves by a migration, the disk by a
//! mirror to an NBD export, as in Proxmox VE.

mod transport;

use crate::load::{self, Fill};
use crate::measure::{Sample, rate};
use crate::qemu::Qemu;
use nix::fcntl::{FallocateFlags, fallocate};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;
pub use transport::Transport;

/// The address at which the random bytes in RAM start, and the size of the RAM after them. The BIOS
/// and its tables may use these two areas.
const RESERVED: u64 = 16 << 20;

/// Files are in memory, because what is measured is the path and not a disk.
const MEMORY: &str = "/dev/shm";

/// What a disk contains.
#[derive(Clone, Copy)]
pub enum Disk {
    Random,
    /// Mostly zeros, as [`Fill::Sparse`], which are stored, as on a volume of LVM without thin
    /// provisioning.
    Zeros,
    /// The same, with holes in place of zeros.
    Holes,
}

/// The files that all guests use.
pub struct Setup {
    /// The bytes of RAM that are moved.
    ram: u64,
    disk: u64,
    directory: TempDir,
}

impl Setup {
    /// Guests with so many random bytes in RAM and on disk.
    pub fn new(bytes: u64) -> Self {
        Self::with(bytes, bytes, Disk::Random)
    }

    /// Guests with a disk of so many bytes, and a small RAM.
    pub fn of_disk(bytes: u64, disk: Disk) -> Self {
        Self::with(0, bytes, disk)
    }

    fn with(ram: u64, disk: u64, content: Disk) -> Self {
        let directory = tempfile::tempdir_in(MEMORY).unwrap();
        let setup = Self {
            ram,
            disk,
            directory,
        };
        write_random(&setup.ram(), ram);
        match content {
            Disk::Random => write_random(&setup.disk(), disk),
            Disk::Zeros | Disk::Holes => {
                load::write(File::create(setup.disk()).unwrap(), Fill::Sparse, disk);
            }
        }
        if matches!(content, Disk::Holes) {
            let mut dig = Command::new("fallocate");
            let status = dig.arg("--dig-holes").arg(setup.disk()).status().unwrap();
            assert!(status.success(), "{dig:?}: {status}");
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
        let size = self.ram + 2 * RESERVED;
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
        let length = i64::try_from(self.disk).unwrap();
        let file = File::create(&disk).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, length).unwrap();
        self.guest(&disk, &["-incoming".to_owned(), "defer".to_owned()])
    }

    /// A new directory for the files of one turn.
    fn turn_directory(&self) -> TempDir {
        tempfile::tempdir_in(self.directory.path()).unwrap()
    }

    /// Moves the RAM.
    pub fn migrate(&self, transport: &mut Transport, check: bool) -> Sample {
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
        let (time, cpu) = clocks.cost(self.ram, || {
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
            let all = json!({ "val": RESERVED, "size": self.ram, "filename": copy });
            target.execute("pmemsave", &all);
            assert_same(&self.ram(), &copy);
        }
        Sample {
            cpu,
            ..Sample::of(rate(self.ram, time))
        }
    }

    /// Moves the disk.
    pub fn mirror(&self, transport: &mut Transport, check: bool) -> Sample {
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
        let (time, cpu) = clocks.cost(self.disk, || {
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
            ..Sample::of(rate(self.disk, time))
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

fn write_random(path: &Path, bytes: u64) {
    let mut random = File::open("/dev/urandom").unwrap().take(bytes);
    std::io::copy(&mut random, &mut File::create(path).unwrap()).unwrap();
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
