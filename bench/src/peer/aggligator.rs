//! A pair of programs that carry one stream over several TCP connections with the crate aggligator.
//! Their source is in `bench/peers/aggligator`.

use super::pair::{Addresses, Pair};
use super::process::Process;
use crate::project;
use std::path::{Path, PathBuf};
use std::process::Command;
use testing::link::Link;

/// The program's path, where `make bench-peers` installs it.
pub fn program() -> Result<PathBuf, String> {
    let program = project::path("target/bench/bin/aggligator-peer");
    match program.is_file() {
        true => Ok(program),
        false => Err("aggligator-peer is not installed: run make bench-peers".to_owned()),
    }
}

/// One program between the source and so many TCP connections, one between these and the sink. Each
/// has so many threads, or one for each core.
pub fn pair(links: u16, threads: Option<u16>) -> Result<Pair, String> {
    let program = program()?;
    Ok(Pair::new(|addresses| {
        start(&program, addresses, links, threads)
    }))
}

/// The same, with TCP connections over a link, and a thread for each core.
pub fn pair_over(link: &Link, links: u16) -> Result<Pair, String> {
    let program = program()?;
    Ok(Pair::over(link, |addresses| {
        start(&program, addresses, links, None)
    }))
}

fn start(
    program: &Path,
    addresses: &Addresses,
    links: u16,
    threads: Option<u16>,
) -> Vec<(&'static str, Process)> {
    let mut client = Command::new(program);
    client.arg("client").arg(addresses.source());
    client.args([addresses.endpoint(), links.to_string()]);
    let mut server = Command::new(program);
    server.args(["server", &addresses.endpoint()]);
    server.arg(addresses.sink());
    if let Some(threads) = threads {
        for command in [&mut client, &mut server] {
            command.env("TOKIO_WORKER_THREADS", threads.to_string());
        }
    }
    addresses.start(("aggligator client", client), ("aggligator server", server))
}
