//! An emulated link between two network namespaces, for the demonstration.
//!
//!   emulated-link NAME PID NAME ROUND-TRIP-MS LOSS-PERCENT
//!
//! Creates a TUN device with the first name in its own network namespace, and one with the second
//! name in the namespace of the process PID, prints `ready`, and moves packets between the two
//! until the end of standard input. The kernel removes the devices with the process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::Read;
use std::thread;
use std::time::Duration;
use testing::link::device::Device;
use testing::link::relay::Relay;

const USAGE: &str = "Usage: emulated-link NAME PID NAME ROUND-TRIP-MS LOSS-PERCENT";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, pid, target, round_trip, loss] = &arguments[..] else {
        if arguments == ["--help"] {
            return println!("{USAGE}");
        }
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let milliseconds: f64 = round_trip.parse().expect("ROUND-TRIP-MS");
    let percent: f64 = loss.parse().expect("LOSS-PERCENT");

    let source = Device::new(source).expect("a TUN device requires root");
    let (pid, target) = (pid.clone(), target.clone());
    // A namespace belongs to a thread.
    let target = thread::spawn(move || {
        let namespace = File::open(format!("/proc/{pid}/ns/net")).expect("PID");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("setns");
        Device::new(&target).expect("a TUN device in the other namespace")
    });
    let relays = Relay::between(source, target.join().unwrap()).unwrap();
    for relay in &relays {
        let mut conditions = relay.conditions();
        conditions.delay = Duration::from_secs_f64(milliseconds / 2e3);
        conditions.loss = percent / 100.0;
    }
    println!("ready");
    // Fails only if standard input cannot be read, which ends the link as well.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
