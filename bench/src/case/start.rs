//! Start-up costs: loading the Perl module, and the first byte of a forward.

use crate::measure::{Contender, Contest, Effort, Goal, Row, Rows, Sample, Title};
use crate::perl;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;
use testing::role;
use testing::seam::{NegotiatedTunnel, Seam, plane_request, program};

/// Turns per run. They are short, so there can be many.
const TURNS: usize = 5;

/// The limits for loading the module, compared with loading JSON, which every program of Proxmox VE
/// does: the ratio of the times, and the additional memory.
const MOST_TIME: f64 = 1.3;
const MOST_MEMORY_MIB: f64 = 4.0;

/// The most time until the first byte has returned.
const FIRST_BYTE_MS: f64 = 5.0;

/// Perl code that prints the peak memory of its process, in KiB.
const PEAK: &str = r#"open(my $status, "<", "/proc/self/status");
    print(m/^VmHWM:\s+(\d+) kB/m) for join("", <$status>);"#;

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    let turns = TURNS * effort.turns();
    match perl::command() {
        Ok(_) => rows.extend([loading_time, loading_memory].map(|row| row(turns))),
        Err(reason) => crate::output::line(format_args!("  skipped: Perl module: {reason}")),
    }
    rows.push(first_byte(turns));
    Ok(())
}

fn loading_time(turns: usize) -> Row {
    let load = |module| {
        Contender::new(module, move || {
            let started = Instant::now();
            perl(module, "1");
            Sample::of(1e3 * started.elapsed().as_secs_f64())
        })
    };
    let contest = Contest::run(turns, ["PVE::Tunnel::Native", "JSON"].map(load).into());
    let title = Title {
        case: "start",
        name: "perl -M, time",
        unit: "ms",
    };
    contest.row(title, "JSON", Some(Goal::AtMost(MOST_TIME)), |sample| {
        sample.value
    })
}

/// The limit applies to the difference, because Perl itself uses most of the memory in both cases.
fn loading_memory(turns: usize) -> Row {
    let peak = |module| perl(module, PEAK).parse::<f64>().unwrap() / 1024.0;
    let more = (0..turns).map(|_| peak("PVE::Tunnel::Native") - peak("JSON"));
    let title = Title {
        case: "start",
        name: "perl -M, peak above JSON's",
        unit: "MiB",
    };
    Row::limited(title, &more.collect::<Vec<_>>(), MOST_MEMORY_MIB)
}

/// Runs code in a Perl process that has loaded the module. Returns what it prints.
fn perl(module: &str, code: &str) -> String {
    let mut command = perl::command().unwrap();
    let output = command
        .arg(format!("-M{module}"))
        .args(["-e", code])
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The time from the request for a forward to the return of the first byte. It includes the ticket
/// for the listener, a connection with its handshake, and the target's socket.
fn first_byte(turns: usize) -> Row {
    let seam = Seam::with_listeners(role::listeners());
    let mut tunnel = NegotiatedTunnel::on_plane("tls", seam.clone(), &plane_request("secure"));
    let echo = program(tunnel.directory.path(), |mut stream: UnixStream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
    });
    let mut turn = || {
        let started = Instant::now();
        let mut source = tunnel.open(&echo);
        let mut byte = [7];
        source.write_all(&byte).unwrap();
        source.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [7]);
        1e3 * started.elapsed().as_secs_f64()
    };
    turn();
    let times: Vec<f64> = (0..turns).map(|_| turn()).collect();
    tunnel.finish();
    drop(seam.take_listener());
    let title = Title {
        case: "start",
        name: "first byte through tls",
        unit: "ms",
    };
    Row::limited(title, &times, FIRST_BYTE_MS)
}
