//! The command's arguments. `--help`, the manual pages and the completions are generated from these
//! definitions.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

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
    /// many of its processes have loaded pve-tunnel's library. Checks /etc/pve/remote-migration.cfg,
    /// too: while it is invalid, no migration to another cluster starts. Changes nothing. Run it as
    /// root: other users may not inspect the daemons.
    ///
    /// The exit code is 0 if there is no problem, also if pve-tunnel is off. It is 1 if there is a
    /// problem: a line that begins with PROBLEM describes it. It is 2 if the arguments are wrong.
    Status(Status),
    /// Check the configuration of migrations to other clusters, and explain it.
    ///
    /// Reads /etc/pve/remote-migration.cfg, or another file before it is copied there, and reports
    /// the first mistake with its line. With --to, the command reports what a migration to this
    /// target would get, and where each value comes from: the line of the file, or the default.
    /// Connects to no other machine, and changes nothing. remote-migration.cfg(5) describes the
    /// file.
    ///
    /// The exit code is 0 if the file is valid, or if there is no file and none was given. It is 1
    /// if the file is invalid or cannot be read, or if it does not permit the migration of --to. It
    /// is 2 if the arguments are wrong.
    Config(Config),
    /// List what interrupted migrations may have left on this node.
    ///
    /// The command looks for guests that are locked by 'create' or 'migrate' without a running task,
    /// volumes of guests that no node of the cluster has, sockets of migrations that no process has
    /// open, and connectors and listeners whose migration has ended. For each, it prints what it
    /// means, and the commands that remove it. It removes nothing itself. Run it as root, on both
    /// nodes of the migration.
    ///
    /// Do not run the printed commands while a migration of the guest is in progress. The command
    /// lists nothing of a guest for which a task is running on this node or in its cluster, but it
    /// cannot see the tasks of the other cluster: look at the running tasks there first.
    ///
    /// The exit code is 0 if nothing was found, and 1 if something was found. It is 2 if a part of
    /// the check could not be done, for example because a storage is not active; the output shows
    /// which part.
    Leftovers(Leftovers),
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
pub(crate) struct Config {
    /// The file to check [default: /etc/pve/remote-migration.cfg].
    pub(crate) file: Option<PathBuf>,

    /// Report what a migration to this target would get.
    ///
    /// The target is the ID of a network in the file, or a host as in host=... of the target
    /// endpoint of 'qm remote-migrate'. If a network has this ID, it has precedence. The migration
    /// requests neither a type nor a network, except a network without 'remote', which it requests
    /// by its ID.
    #[arg(long, value_name = "ID|HOST")]
    pub(crate) to: Option<String>,

    /// Print one JSON object: file, exists, valid, error, require_encryption, policy_line, networks,
    /// migration.
    ///
    /// "error" is null, or the first mistake. "networks" lists the networks, each with "id",
    /// "line", "remotes", "allow" and "default". "migration" is null without --to. Otherwise it has
    /// "remote" (null: any host), "reason" (why this network applies), "refused" (null, or why the
    /// migration is refused), "settings" and "types". "settings" lists the values, each with "key",
    /// "value" (null: the node's own address) and "origin": "default", or "file" with "section" and
    /// "line". "types" lists the types of migration, each with "type", "planes", "refused" and
    /// "privileges".
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Leftovers {
    /// Print one JSON object: node, leftovers, in_progress, unchecked.
    ///
    /// "leftovers" lists what was found, each with "kind" ("locked-guest", "volume", "socket",
    /// "listener-file", "process"), "guest" (its VMID, or null), "found", "meaning" and "remedies".
    /// A remedy has a "condition" (null: always) and "commands", quoted for a shell. "in_progress"
    /// lists the guests for which a migration is running, each with "guest" and "task". "unchecked"
    /// has one sentence for each part that could not be checked.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Status {
    /// Print one JSON object: state, parts, versions, daemons, reload_pending, proxmox_ve, problems.
    ///
    /// "state" is "off", "on", "helper-only" or "mixed". "parts" lists the components, each with
    /// "part" ("overlay", "seam", "helper"), "state" ("off", "on", "broken"), "path", "package"
    /// (null, or "name" and "version") and "module" (null, or "file", "error", "in_effect" and
    /// "refusal"). "daemons" lists the daemons, each with "name", "pid" (null: not running), and
    /// the numbers of its "processes", of those with a "current" and with an "outdated" library,
    /// and of those that are "unreadable". "versions" has the versions of modules and library by
    /// name. If "reload_pending" is true, the daemons were not checked. "proxmox_ve" is false if the
    /// stock modules are not installed. "problems" has one sentence for each problem.
    #[arg(long)]
    pub(crate) json: bool,
}
