//! What the command takes: `--help`, the manual page and the completions are made of this.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Native tunnel for moving guests between Proxmox VE clusters.
#[derive(Parser)]
#[command(name = "pve-tunnel", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve tunnel commands on standard input, like proxmox-websocket-tunnel.
    ///
    /// Reads a JSON command a line, writes an answer a line to standard output and diagnostics to
    /// standard error, until standard input ends. Credentials come in the commands; no option or
    /// variable takes any.
    Connect(Connect),
}

#[derive(Args, Default)]
pub(crate) struct Connect {
    /// Masking keys inside TLS [default: zero].
    #[arg(long, value_enum)]
    pub(crate) mask: Option<Mask>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Mask {
    /// The key 00000000, which costs neither end anything; TLS hides what masking would.
    Zero,
    /// A random key for each frame.
    Random,
}
