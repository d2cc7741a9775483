//! The number of instructions that masking, decoding and encoding execute, counted by valgrind. The
//! test fails after a change that makes them slower. The count does not depend on time, so a busy
//! machine does not change it.
//!
//! A crate of its own, because valgrind runs its executable once for each operation: a small one
//! starts faster, and its code is laid out independently of the other tests.
//!
//! After an intended change, write the figures again with `UPDATE_INSTRUCTIONS=1 cargo test
//! --release
//! --test instructions`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A skipped test is reported with writeln!, because the harness captures the output of print
// macros.
#![allow(clippy::explicit_write)]

use pve_tunnel::websocket::{
    Decoder, Encoder, Event, FrameHeader, MAX_FRAME, MAX_HEADER, Masking, OpCode, Role, mask,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// The bytes that one operation processes.
const LENGTH: usize = 64 << 10;

/// The length of a piece in bytes. It fits in the first-level cache, so the mask uses wider
/// vectors.
const PIECE: usize = 16 << 10;

/// How often an operation is repeated. The start and the end of the process vary by a few thousand
/// instructions, which are few compared with those of the operations.
const OPERATIONS: u64 = 2000;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// `bench/instructions.json`.
#[derive(Serialize, Deserialize)]
struct Committed {
    about: Vec<String>,
    /// The compiler for which the figures were counted.
    rustc: String,
    /// The relative difference that is accepted in both directions, with this compiler.
    tolerance: f64,
    /// The relative increase that is accepted with another compiler.
    tolerance_of_others: f64,
    /// Instructions for 64 KiB.
    instructions: BTreeMap<String, u64>,
}

/// Repeats an operation this many times.
type Repeat = fn(u64);

const OPERATIONS_BY_NAME: [(&str, Repeat); 5] = [
    ("mask", |times| repeat_mask(LENGTH, times)),
    ("mask in pieces", |times| repeat_mask(PIECE, times)),
    ("decode masked", |times| repeat_decode(Role::Server, times)),
    ("decode unmasked", |times| {
        repeat_decode(Role::Client, times)
    }),
    ("encode", repeat_encode),
];

#[test]
fn the_counts_are_those_committed() {
    let update = env::var_os("UPDATE_INSTRUCTIONS").is_some();
    if let Err(reason) = can_count() {
        assert!(!update, "cannot count on this machine: {reason}");
        writeln!(io::stderr(), "instructions: skipped all of it: {reason}").unwrap();
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/instructions.json");
    let mut committed: Committed = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let counts: BTreeMap<String, u64> = OPERATIONS_BY_NAME
        .iter()
        .map(|(name, _)| ((*name).to_owned(), instructions(name)))
        .collect();
    if update {
        committed.rustc = compiler();
        committed.instructions = counts.clone();
        let text = serde_json::to_string_pretty(&committed).unwrap();
        fs::write(&path, text + "\n").unwrap();
    }
    let wrong: Vec<String> = counts
        .iter()
        .filter_map(|(name, &count)| committed.judge(name, count, &compiler()).err())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Committed {
    fn judge(&self, name: &str, count: u64, compiler: &str) -> Result<(), String> {
        let expected = *self
            .instructions
            .get(name)
            .ok_or(format!("{name}: no figure"))?;
        let same = compiler == self.rustc;
        let ratio = count as f64 / expected as f64;
        let most = 1.0
            + if same {
                self.tolerance
            } else {
                self.tolerance_of_others
            };
        let what = if ratio > most {
            "more: find out why"
        } else if same && ratio < 1.0 - self.tolerance {
            "less: commit the new figure"
        } else {
            return Ok(());
        };
        Err(format!(
            "{name}: {count} instructions for 64 KiB, {expected} in bench/instructions.json \
             (rustc {}, here {compiler}): {:+.1} %, {what}. If intended: \
             UPDATE_INSTRUCTIONS=1 cargo test --release --test instructions",
            self.rustc,
            100.0 * (ratio - 1.0),
        ))
    }
}

#[test]
fn a_count_beyond_the_tolerance_is_refused() {
    let committed = Committed {
        about: Vec::new(),
        rustc: "1.85".to_owned(),
        tolerance: 0.05,
        tolerance_of_others: 0.5,
        instructions: [("mask".to_owned(), 1000)].into(),
    };
    let accepted = |count, compiler| committed.judge("mask", count, compiler).is_ok();
    for count in [950, 1000, 1050] {
        assert!(accepted(count, "1.85"), "{count}");
    }
    for count in [949, 1051] {
        assert!(!accepted(count, "1.85"), "{count}");
    }
    assert!(accepted(1500, "1.99") && accepted(100, "1.99"));
    assert!(!accepted(1501, "1.99"));
    assert!(committed.judge("encode", 1000, "1.85").is_err());
}

/// Whether counts on this machine can be compared with the committed ones.
fn can_count() -> Result<(), String> {
    if cfg!(debug_assertions) {
        return Err("the figures are of the release build".to_owned());
    }
    #[cfg(target_arch = "x86_64")]
    let has_avx2 = std::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let has_avx2 = false;
    if !has_avx2 {
        return Err("the figures are of a processor with AVX2".to_owned());
    }
    match Command::new("valgrind").arg("--version").output() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot run valgrind: {error}")),
    }
}

/// The compiler's version, as far as code generation depends on it.
fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text.split(' ').nth(1).unwrap();
    version.rsplit_once('.').unwrap().0.to_owned()
}

/// Instructions for one operation: the difference between a run and a run with twice as many
/// operations. The start and the end of the process cancel out.
fn instructions(operation: &str) -> u64 {
    let [once, twice] = [1, 2].map(|rounds| count(operation, rounds * OPERATIONS));
    (twice - once) / OPERATIONS
}

/// Instructions of a process that repeats the operation `times` times.
fn count(operation: &str, times: u64) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "operation_process",
            "--test-threads=1",
        ])
        .env(OPERATION, operation)
        .env(TIMES, times.to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(out).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("summary: "));
    total.unwrap().trim().parse().unwrap()
}

/// The environment variables with the operation of `operation_process` and its number of
/// repetitions. They are not set if a user runs all ignored tests.
const OPERATION: &str = "INSTRUCTIONS_OPERATION";
const TIMES: &str = "INSTRUCTIONS_TIMES";

/// The process whose instructions are counted: the same test binary.
#[test]
#[ignore = "a process of the other test"]
fn operation_process() {
    let Ok(requested) = env::var(OPERATION) else {
        return;
    };
    let times = env::var(TIMES).unwrap().parse().unwrap();
    let (_, operation) = OPERATIONS_BY_NAME
        .into_iter()
        .find(|(name, _)| *name == requested)
        .unwrap();
    operation(times);
}

fn repeat_mask(piece: usize, times: u64) {
    let mut data = vec![7; LENGTH];
    for _ in 0..times {
        for data in data.chunks_mut(piece) {
            mask(black_box(data), KEY, 1);
        }
    }
}

/// Decodes a frame in three pieces. The first ends inside the header. The payload is not copied to
/// the buffer, so that the count does not include a copy.
fn repeat_decode(role: Role, times: u64) {
    let header = FrameHeader {
        fin: true,
        opcode: OpCode::Binary,
        mask: (role == Role::Server).then_some(KEY),
        length: LENGTH as u64,
    };
    let mut room = [0; MAX_HEADER];
    let end = header.write(&mut room);
    let mut decoder = Decoder::new(role, MAX_FRAME);
    let mut seen = 0;
    for _ in 0..times {
        for (bytes, payload) in [(&room[..3], 0), (&room[3..end], 4095), (&[], LENGTH - 4095)] {
            let space = decoder.space(MAX_FRAME + MAX_HEADER);
            space[..bytes.len()].copy_from_slice(bytes);
            decoder.filled(bytes.len() + payload);
            while let Some(event) = decoder.next_event().unwrap() {
                let Event::Data { payload, .. } = event else {
                    panic!("{event:?}");
                };
                seen += black_box(payload).len() as u64;
            }
        }
    }
    assert_eq!(seen, times * LENGTH as u64);
}

fn repeat_encode(times: u64) {
    let mut encoder = Encoder::new(Role::Client, Masking::Random);
    let mut buffer = vec![7; MAX_HEADER + LENGTH];
    for _ in 0..times {
        let start = encoder.encode_in_place(black_box(&mut buffer)).unwrap();
        assert!(start < MAX_HEADER);
    }
}
