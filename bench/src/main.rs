//! The benchmarks: `make bench`, or `make bench CASE=tls` for one of them.
//!
//! A figure is a ratio: ours and its peers take turns within one run, and what counts is the median
//! of the ratios, shown with their spread. Next to speed stands cost, as CPU seconds for a GiB of
//! every process in the path.
//!
//! | room | owns |
//! |---|---|
//! | `case` | one file a case: what is compared, with what, and what it has to reach |
//! | `cores` | who runs where, when a wake-up is what counts |
//! | `measure` | contests, spreads, the processes' CPU clocks |
//! | `load` | the programs at both ends: a source and a sink of bytes |
//! | `link` | two nodes with a rate and a delay between them |
//! | `network` | the network in which figures are taken |
//! | `path` | the processes between them: ours |
//! | `peer` | the programs that ours are measured against, or with |
//! | `perl` | a Perl that finds our module |
//! | `project` | where the project's files are |
//! | `qemu` | real guests |
//! | `report` | `results.json`, and the tables and the picture that are made of it |
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod case;
mod cores;
mod link;
mod load;
mod measure;
mod network;
mod path;
mod peer;
mod perl;
mod project;
mod qemu;
mod report;

use clap::Parser;
use measure::Effort;
use std::process::ExitCode;

/// Measures pve-tunnel against its peers, and writes bench/results.json and what is made of it.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    /// Cases to run, by name; all without any. The results of the others are kept.
    cases: Vec<String>,
    /// One short run of each, to see that it works. Nothing is written.
    #[arg(long)]
    quick: bool,
    /// Only lists the cases.
    #[arg(long)]
    list: bool,
    /// Only writes what is made of bench/results.json anew.
    #[arg(long)]
    report: bool,
    /// Only compares what is made of bench/results.json with what there is.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    if case::plays_a_role() {
        return ExitCode::SUCCESS;
    }
    let cli = Cli::parse();
    let chosen = match case::chosen(&cli.cases) {
        Ok(chosen) => chosen,
        Err(unknown) => {
            eprintln!("bench: there is no case '{unknown}'; --list names them");
            return ExitCode::from(2);
        }
    };
    if cli.list {
        for case in chosen {
            println!("{:16} {}", case.name, case.about);
        }
        return ExitCode::SUCCESS;
    }
    if cli.report {
        return report::renew();
    }
    if cli.check {
        return report::check();
    }
    network::leave_for_own();
    let effort = Effort { quick: cli.quick };
    let mut report = report::Report::default();
    for case in chosen {
        println!("{}: {}", case.name, case.about);
        match (case.run)(&effort) {
            Ok(rows) => report.add(case.name, rows),
            Err(reason) => {
                println!("  skipped: {reason}");
                continue;
            }
        }
        // At once: a later one may be interrupted.
        if !cli.quick {
            report.write();
        }
    }
    report.print();
    if !cli.quick {
        println!("bench/results.json, bench/results.svg and the tables of the documents are new");
    }
    ExitCode::SUCCESS
}
