//! Generates tables and pictures from `bench/results.json`, or checks that they match it.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use bench_report::{Results, files};
use std::process::ExitCode;

const USAGE: &str = "\
Usage: bench-report [--check]

Generates the tables and pictures in the documents from bench/results.json.
With --check, writes nothing, and fails if one of them does not match that file.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let action = match arguments[..] {
        [] => generate,
        ["--check"] => check,
        ["-h" | "--help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!(
                "bench-report: unexpected arguments: {}\n\n{USAGE}",
                arguments.join(" ")
            );
            return ExitCode::from(2);
        }
    };
    let Some(results) = Results::read() else {
        eprintln!("bench-report: bench/results.json does not exist; `make bench` writes it");
        return ExitCode::FAILURE;
    };
    action(&results)
}

fn generate(results: &Results) -> ExitCode {
    files::generate(results);
    ExitCode::SUCCESS
}

/// Reports each file that differs from what the recorded results generate.
fn check(results: &Results) -> ExitCode {
    let stale = files::stale(results);
    for name in &stale {
        eprintln!("bench-report: {name} does not match bench/results.json");
    }
    if stale.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("bench-report: run `make bench-report` to generate it again");
    ExitCode::FAILURE
}
