//! The command's arguments. `--help`, the manual pages and the completions are generated from these
//! definitions.

use clap::{Args, Parser, Subcommand, ValueEnum};
use pve_tunnel::plane::MigrationType;
use std::path::PathBuf;

/// Native tunnel for moving guests between Proxmox VE clusters.
#[derive(Parser)]
#[command(
    name = "pve-tunnel",
    version,
    propagate_version = true,
    max_term_width = 80
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Check a migration to another cluster before a guest moves.
    ///
    /// Run it as root on the node that the guest would leave. It checks, in this order: this node and
    /// its configuration; the addresses of the remote; TLS and the fingerprint; the API token, the
    /// version of the target, and the clocks; the privileges of the token; the storages and bridges that
    /// were given; the planes that the target offers, and the one that a migration would use; the ports, and packets of full size in both
    /// directions; and the speed and the CPU cost of the planes. Each line begins with a mark: ✓ if it
    /// is as it should be, ! if a migration works but worse than it could, ✗ if a migration would fail.
    /// A line with ! or ✗ is followed by what to do.
    ///
    /// To ask the target's tunnel worker, the check opens a tunnel as a migration does. The target
    /// then has an empty, locked guest. The check removes it at its end, also after Ctrl-C, and checks
    /// that it is gone. After Ctrl-C, this takes at most 45 seconds, and a second Ctrl-C ends the check at
    /// once. A check that was killed or ended at once, or that has lost the target, may leave the guest: the next
    /// ones of that target report it until it is gone, if they have the same TMPDIR. With --read-only it opens no
    /// tunnel. No guest of this node is changed.
    ///
    /// The exit code is 0 if everything that was checked is as it should be. It is 1 if a migration
    /// works but worse than it could, or if it is not known whether it works. It is 2 if it would fail,
    /// if the arguments are wrong, or if the report cannot be written. With --read-only, 0 does not
    /// mean that a migration works: without a tunnel, that is not known. A check that was interrupted
    /// ends by the signal, for which a shell reports 128 and its number: 130 after Ctrl-C. No output
    /// contains the token. A command to be run has a line of its own, which can be longer than 80
    /// columns.
    Check(Check),
    /// Serve tunnel commands on standard input, like proxmox-websocket-tunnel.
    ///
    /// Reads one JSON command per line from standard input until its end. Writes one answer per
    /// line to standard output, and diagnostics to standard error. Credentials are part of the
    /// commands. No option and no environment variable accepts them.
    Connect(Connect),
    /// Switch pve-tunnel on for the migrations of this node.
    ///
    /// Installing the packages does not change how a node migrates. This command
    /// does. It diverts two modules of libpve-guest-common-perl with dpkg-divert,
    /// and replaces them with links to modules of pve-tunnel:
    ///
    ///   /usr/share/perl5/PVE/Tunnel.pm         overlay: migrations from here
    ///   /usr/share/perl5/PVE/StorageTunnel.pm  seam: migrations to here
    ///
    /// A replacement module loads the stock module, which is beside it with the
    /// extension .distrib, and then pve-tunnel. If pve-tunnel does not support this
    /// version of the stock module, the replacement module prints a warning, and
    /// migrations use the stock tunnel. Both packages can be upgraded at any time.
    ///
    /// The daemons are reloaded by the dpkg trigger pve-api-updates, as after an
    /// upgrade of libpve-guest-common-perl. Running migrations are not affected.
    ///
    /// Nothing is changed if a file is not the expected one, if another package
    /// diverts it, or if pve-tunnel does not support the stock modules. Modules that
    /// are already on stay on. If --helper-only had switched the helper on, it is
    /// switched off.
    ///
    /// 'pve-tunnel disable' reverses this.
    // With the line breaks of the source, because of the table. That keeps the full stop of the first
    // line, too, which no other subcommand has.
    #[command(
        verbatim_doc_comment,
        about = "Switch pve-tunnel on for the migrations of this node"
    )]
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

#[derive(Args)]
pub(crate) struct Check {
    /// The remote: 'host=…,apitoken=…,fingerprint=…', @FILE, - or ID.
    ///
    /// As 'qm remote-migrate' takes it: host, port (8006), apitoken and fingerprint. Other users of
    /// this node can see the arguments of a command. @FILE reads the remote from a file, and - from
    /// standard input, so that the token is not among them. The content is one line. The ID of a
    /// network in the configuration, here or in the file, stands for the first remote of that network.
    /// It has no token, so only the steps up to TLS run.
    #[arg(long, value_name = "REMOTE")]
    pub(crate) to: String,
    /// The name of the target's node, to check that the host is that node.
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// The migration network, as in migration_network.
    #[arg(long)]
    pub(crate) network: Option<String>,
    /// The type of the migration, secure or insecure [default: as configured].
    #[arg(long = "type", value_name = "TYPE", value_parser = migration_type)]
    pub(crate) migration_type: Option<MigrationType>,
    /// A guest of this node: whether Proxmox VE would refuse it, as far as its configuration, the resources of
    /// high availability and the replication jobs show that, what it needs at the target, and how long its RAM
    /// and disks take.
    #[arg(long)]
    pub(crate) vmid: Option<u32>,
    /// The VMID at the target, which must be free [default: that of --vmid, or a high one].
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..1_000_000_000))]
    pub(crate) target_vmid: Option<u32>,
    /// A storage of the target that the migration would use, or a map; can be repeated.
    ///
    /// A map is one as 'qm remote-migrate' takes it: with 'local:data,fast:nvme,lvm', the storage 'data' of
    /// the target gets the disks from 'local' of this node, 'nvme' those from 'fast', and 'lvm' all others.
    /// Without an ID for all others, these get the storage of the same name. With --vmid, the check is of the
    /// storages that a map gives the disks of the guest; without it, of all that the map names.
    #[arg(long, value_name = "STORAGE")]
    pub(crate) target_storage: Vec<String>,
    /// A bridge of the target that the migration would use, or a map; can be repeated.
    ///
    /// As --target-storage. '1' stands for the bridges of the same names, and requires --vmid to have an
    /// effect.
    #[arg(long, value_name = "BRIDGE")]
    pub(crate) target_bridge: Vec<String>,
    /// Duration of each of up to six measurements, 0 to 20; 0 measures nothing.
    ///
    /// Two planes are measured in both directions, and a direct plane with one connection and with
    /// several ones, if the configuration permits these.
    ///
    /// The rate is that of the later half, or of the last quarter if it grows much until then: a
    /// connection starts slowly, and on a long path that takes seconds.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Create nothing at the target: do not open a tunnel.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Print one JSON object: outcome, version, remote, interrupted, findings, plane, measurements.
    ///
    /// "outcome" is "ok", "worse" or "failed". "interrupted" is null, or the signal that ended the check
    /// before its end, such as "SIGINT": then "outcome" is that of what was checked. A second signal, or
    /// one before the tunnel, ends the check without JSON. "findings" lists objects with "step" ("node",
    /// "address", "tls", "api", "privileges", "resources", "tunnel", "speed", "guest", "cleanup"),
    /// "outcome", "text" and "advice" (null if there is nothing to do; a command that can be copied
    /// follows the rest after a colon and a space). "plane" is the plane that a migration would use, or
    /// null. "measurements" lists objects with "plane", "lanes" (the number of connections, or null if the
    /// configuration does not permit several), "direction" ("sent" or "received", as this node
    /// sees it), "bytes" that arrived, "seconds" from the first byte to the end, "rate" (MB/s without the
    /// start of TCP, which the text shows), "source_cpu" and "target_cpu": CPU seconds for a GiB of the
    /// connector and of the process at the target, or null.
    #[arg(long)]
    pub(crate) json: bool,
    /// The configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/pve/remote-migration.cfg"
    )]
    pub(crate) configuration: PathBuf,
    /// The folder with the configurations of this node's guests.
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/etc/pve/local",
        hide = true
    )]
    pub(crate) guests: PathBuf,
    /// The root of the file system whose diversions are checked, for tests.
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub(crate) root: Option<PathBuf>,
}

fn migration_type(text: &str) -> Result<MigrationType, String> {
    MigrationType::from_name(text).ok_or_else(|| "expected secure or insecure".to_owned())
}

/// Longest measurement of a check, in seconds. The meter of the target reads for 30 s, so that what is in queues
/// at the end can arrive.
pub(crate) const MAX_SECONDS: f64 = 20.0;

/// Shortest measurement that shows something.
const MIN_SECONDS: f64 = 0.01;

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: Result<f64, _> = text.parse();
    match seconds {
        Ok(seconds) if seconds == 0.0 || (MIN_SECONDS..=MAX_SECONDS).contains(&seconds) => {
            Ok(seconds)
        }
        _ => Err(format!(
            "expected a number from {MIN_SECONDS} to {MAX_SECONDS}, or 0"
        )),
    }
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
    /// "value" (null: a default that depends on the node or the plane) and "origin": "default", or
    /// "file" with "section" and "line". "types" lists the types of migration, each with "type",
    /// "planes", "refused", "privileges" (each with "path", "privilege" and "on", the nodes that
    /// require it) and "network_at_target" (null, or the network that the target's file has to
    /// contain; otherwise the target requires a privilege, too).
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
