//! The benchmarks. `make bench` runs all of them, `make bench CASE=tls` runs one. The library
//! `bench-report` generates tables and pictures from the results.
//!
//! A result is a ratio: pve-tunnel and its peers take turns in one run, and the result is the
//! median of the ratios, with minimum and maximum. Costs are reported beside speed: the CPU seconds
//! per GiB of every process in the path.
//!
//! A module imports only from modules on lower floors, and `tests/floors.rs` checks this. The highest
//! floor comes first:
//!
//! | module | provides |
//! |---|---|
//! | `report` | the results of a run: printed, and recorded in `bench/results.json` |
//! | `case` | one module for each case: what is compared, with which peers, and the goals |
//! | `connection` | a connection through a tunnel, with the CPU time that it costs |
//! | `plane`, `role` | pve-tunnel on each plane; this program as a process with another role |
//! | `guest` | a guest of QEMU, whose RAM and disk move |
//! | `load` | the programs at both ends of a connection |
//! | `peer`, `perl` | what pve-tunnel is compared with; Perl with the built module |
//! | `machine` | the machine, and the versions of all programs |
//! | `affinity`, `network`, `throttle` | cores of a node, the network namespace, CPU time of threads |
//! | `measure` | contests, rows of results, CPU clocks of processes |
//! | `project`, `qemu`, `tunnel` | paths of files, QEMU processes, what all tunnels have in common |

// A failed step ends the benchmark with a panic, it prints to the terminal, and names in a program
// need no further description.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod affinity;
mod case;
mod connection;
mod guest;
mod load;
mod machine;
mod measure;
mod network;
mod output;
mod peer;
mod perl;
mod plane;
mod project;
mod qemu;
mod report;
mod role;
mod throttle;
mod tunnel;

use clap::Parser;
use measure::{Effort, Rows};
use report::Report;
use std::io::Write;
use std::process::ExitCode;

/// Compares pve-tunnel with its peers. Writes bench/results.json, and the files that are generated
/// from it.
#[derive(Parser)]
#[command(name = "bench", max_term_width = 80)]
struct Cli {
    /// Names of the cases to run; all cases if there are no names. Recorded results of other cases
    /// stay.
    cases: Vec<String>,
    /// Run each case once and briefly, to see that it works. Write nothing.
    #[arg(long)]
    quick: bool,
    /// List the cases.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    if role::run() {
        return ExitCode::SUCCESS;
    }
    let cli = Cli::parse();
    let cases = match case::select(&cli.cases) {
        Ok(cases) => cases,
        Err(unknown) => {
            eprintln!("bench: there is no case '{unknown}'; --list prints all names");
            return ExitCode::from(2);
        }
    };
    if cli.list {
        let mut output = std::io::stdout().lock();
        for case in cases {
            // A reader that has ended, such as `head`, does not require the rest.
            if writeln!(output, "{:16} {}", case.name, case.about).is_err() {
                break;
            }
        }
        return ExitCode::SUCCESS;
    }
    network::enter_own_namespace();
    let effort = Effort { quick: cli.quick };
    let mut report = Report::default();
    for case in cases {
        crate::output::line(format_args!("{}: {}", case.name, case.about));
        let mut rows = Rows::default();
        match case::runner(case)(&effort, &mut rows) {
            Ok(()) => report.add(case.name, rows.into_vec()),
            Err(reason) => {
                crate::output::line(format_args!("  skipped: {reason}"));
                continue;
            }
        }
        // After each case, because a later one may be interrupted.
        if !cli.quick {
            report.write();
        }
    }
    report.print();
    if !cli.quick {
        crate::output::line(format_args!(
            "bench/results.json, bench/results.svg and the tables in the documents are updated"
        ));
    }
    ExitCode::SUCCESS
}
