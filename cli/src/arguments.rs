//! The command's arguments. `--help`, the manual pages and the completions are generated from these
//! definitions.

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
    /// Reads one JSON command per line from standard input until its end. Writes one answer per
    /// line to standard output, and diagnostics to standard error. Credentials are part of the
    /// commands. No option and no environment variable accepts them.
    Connect(Connect),
    /// Switch pve-tunnel on for the migrations of this node.
    ///
    /// Installing the packages does not change how a node migrates. This command does. It diverts
    /// two modules of libpve-guest-common-perl with dpkg-divert, and replaces them with links to
    /// modules of pve-tunnel:
    ///
    ///   /usr/share/perl5/PVE/Tunnel.pm         overlay: migrations from here
    ///   /usr/share/perl5/PVE/StorageTunnel.pm  seam: migrations to here
    ///
    /// A replacement module loads the stock module, which is beside it with the extension
    /// .distrib, and then pve-tunnel. If pve-tunnel does not support this version of the stock
    /// module, the replacement module prints a warning, and migrations use the stock tunnel. Both
    /// packages can be upgraded at any time.
    ///
    /// The daemons are reloaded by the dpkg trigger pve-api-updates, as after an upgrade of
    /// libpve-guest-common-perl. Running migrations are not affected.
    ///
    /// Nothing is changed if a file is not the expected one, if another package diverts it, or if
    /// pve-tunnel does not support the stock modules. Modules that are already on stay on. If
    /// --helper-only had switched the helper on, it is switched off.
    ///
    /// 'pve-tunnel disable' reverses this.
    #[command(verbatim_doc_comment)]
    Enable(Enable),
    /// Switch pve-tunnel off: restore the state before 'pve-tunnel enable'.
    ///
    /// Restores the stock files, removes the diversions, and reloads the daemons by the dpkg
    /// trigger pve-api-updates. Requires neither Perl nor the stock packages. Removing the package
    /// pve-tunnel runs this command. Running migrations are not affected.
    ///
    /// If an 'enable' or 'disable' was interrupted at any point, running either of them again
    /// completes or reverses it.
    Disable,
    /// Show whether pve-tunnel is on, and whether it works.
    ///
    /// For each component: whether it is on, off or broken; the package of the stock file and its
    /// version; whether pve-tunnel supports this version; and whether the component is in effect.
    /// To check this, the command loads the modules in a separate process. For each daemon: how
    /// many of its processes have loaded pve-tunnel's library. Changes nothing. Run it as root:
    /// other users may not inspect the daemons.
    ///
    /// The exit code is 0 if there is no problem, also if pve-tunnel is off. It is 1 if there is a
    /// problem: a line that begins with PROBLEM describes it. It is 2 if the arguments are wrong.
    Status(Status),
    /// Show the running tunnels of this node.
    ///
    /// Each migration to or from another cluster has one tunnel on each node. For each of them: on
    /// which side this node is; the guest's ID on this node; the plane; the data so far, the rate
    /// now, and for how long the tunnel has existed; the process; the other node; and at the source,
    /// if the sizes are known, the part of the total and the time left. On plane qemu, the data that
    /// QEMU itself sends is not included. Run it as root: other users may not read the state of the
    /// tunnels.
    List(List),
}

#[derive(Args, Default)]
pub(crate) struct Connect {
    /// Masking keys inside TLS [default: zero].
    #[arg(long, value_enum)]
    pub(crate) mask: Option<Mask>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Mask {
    /// The key 00000000, which costs neither end any CPU time. TLS protects the data.
    Zero,
    /// A random key for each frame.
    Random,
}

#[derive(Args)]
pub(crate) struct Enable {
    /// Replace only proxmox-websocket-tunnel; the modules stay stock.
    ///
    /// Diverts only /usr/bin/proxmox-websocket-tunnel, from the package of that name, and replaces
    /// it with a link to this command. Migrations from this node still use websockets, with the
    /// native implementation. No daemon has to reload.
    #[arg(long)]
    pub(crate) helper_only: bool,
}

#[derive(Args)]
pub(crate) struct Status {
    /// Print one JSON object: state, parts, versions, daemons, reload_pending, problems.
    ///
    /// "state" is "off", "on", "helper-only" or "mixed". "parts" lists the components, each with
    /// "part" ("overlay", "seam", "helper"), "state" ("off", "on", "broken"), "path", "package"
    /// (null, or "name" and "version") and "module" (null, or "file", "error", "in_effect" and
    /// "refusal"). "daemons" lists the daemons, each with "name", "pid" (null: not running), and
    /// the numbers of its "processes", of those with a "current" and with an "outdated" library,
    /// and of those that are "unreadable". "versions" has the versions of modules and library by
    /// name. If "reload_pending" is true, the daemons were not checked. "problems" has one sentence
    /// for each problem.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct List {
    /// Print one JSON object: tunnels, unanswered.
    ///
    /// "tunnels" lists the tunnels, each with "role" ("source" or "target"), "pid", "guest" and
    /// "peer_guest" (the guest's ID on this node and on the other one), "peer" (address, or host and
    /// port), "plane", "sent" and "received" (bytes), "rate" (bytes per second in both directions,
    /// measured for one second), "total" (bytes) and "total_is" ("about" or "at least"), "since"
    /// (seconds since 1970-01-01 UTC) and "seconds" (for how long it has existed). What is not known
    /// is null. "unanswered" lists the process IDs of tunnels that do not answer. Later versions may
    /// add keys.
    #[arg(long)]
    pub(crate) json: bool,
}
