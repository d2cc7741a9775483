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
    /// Switch pve-tunnel on for the migrations of this node.
    ///
    /// Installing the packages changes nothing about a node; this does. By dpkg-divert, two modules
    /// of libpve-guest-common-perl are set aside, and links to stand-ins take their place:
    ///
    ///   /usr/share/perl5/PVE/Tunnel.pm         overlay: migrations from here
    ///   /usr/share/perl5/PVE/StorageTunnel.pm  seam: migrations to here
    ///
    /// A stand-in loads the stock module, which is beside it as .distrib, and then pve-tunnel. If
    /// that does not take the version of the stock module, it says so, and migrations go the stock
    /// way. Both packages can be upgraded at any time.
    ///
    /// Then daemons reload, as after an upgrade of the modules' package, by the dpkg trigger
    /// pve-api-updates. Migrations that are running are not touched.
    ///
    /// Nothing is changed if a file is not what is expected, is diverted by somebody else, or if
    /// the stock modules are not ones that pve-tunnel knows. What is on already stays on; what
    /// --helper-only had switched on is switched off.
    ///
    /// Undo it with 'pve-tunnel disable'.
    #[command(verbatim_doc_comment)]
    Enable(Enable),
    /// Switch pve-tunnel off: this node is as it was before 'pve-tunnel enable'.
    ///
    /// Puts the stock files back, removes the diversions, and has the daemons reload by the dpkg
    /// trigger pve-api-updates. Needs neither Perl nor the stock packages, and is what happens when
    /// the package is removed. Migrations that are running are not touched.
    ///
    /// An 'enable' or 'disable' that was interrupted, at whatever moment, is brought in order by
    /// running either of them.
    Disable,
    /// Say whether pve-tunnel is on, and whether it works.
    ///
    /// For each part: on, off or broken; the package that the stock file is of, with its version;
    /// whether pve-tunnel knows this version; and whether it is in effect, by loading the modules
    /// in a process made for that. For each daemon: how many of its processes have pve-tunnel's
    /// library. Changes nothing. Run it as root: others may not look into daemons.
    ///
    /// Ends with 0 if everything is in order, being off included, with 1 if something is not, which
    /// a line beginning with PROBLEM explains, and with 2 if the command is misspelt.
    Status(Status),
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

#[derive(Args)]
pub(crate) struct Enable {
    /// Only in the place of proxmox-websocket-tunnel; the modules are stock.
    ///
    /// Diverts /usr/bin/proxmox-websocket-tunnel alone, of the package of that name, to this
    /// command. Migrations from this node go through websockets as ever, natively. No daemon has to
    /// reload.
    #[arg(long)]
    pub(crate) helper_only: bool,
}

#[derive(Args)]
pub(crate) struct Status {
    /// As one JSON object: state, parts, versions, daemons, reload_pending, problems.
    ///
    /// "state" is "off", "on", "helper-only" or "mixed". Each of "parts" has "part" ("overlay",
    /// "seam", "helper"), "state" ("off", "on", "broken"), "path", "package" (null or "name" and
    /// "version") and "module" (null or "file", "error", "in_effect", "refusal"). Each of "daemons"
    /// has "name", "pid" (null: not running) and the numbers of its "processes", of those with a
    /// "current" and an "outdated" library, and of "unreadable" ones. "versions" are those of
    /// modules and library by name. "reload_pending" says that the daemons were not judged. What is
    /// not in order is in "problems", a sentence each.
    #[arg(long)]
    pub(crate) json: bool,
}
