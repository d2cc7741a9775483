//! The API server of a migration target, for tests and the demonstration.
//!
//! It replaces `pveproxy` and `pvedaemon` of a Proxmox VE node: it accepts the `mtunnel` request,
//! starts the worker (a Perl program), and relays websockets to UNIX sockets. Tungstenite encodes
//! and decodes its websocket frames. A defect in pve-tunnel's own codec is therefore not masked by
//! the same defect here.
//!
//! | module | owns |
//! |---|---|
//! | `api` | HTTP requests: authentication and responses |
//! | `permissions` | the privileges of the token |
//! | `inventory` | version, storages and bridges of the node |
//! | `guests` | the configurations of guests |
//! | `form` | query strings and form bodies |
//! | `worker` | starting and stopping workers |
//! | `ticket` | the API token and the tunnel tickets |
//! | `relay` | one upgraded connection to one UNIX socket |
//! | `frames` | the part of RFC 6455 that the relay supports, by tungstenite |
//! | `connection` | TCP with or without TLS, and closing it without close_notify |
//! | `identity` | the certificate, created at start |
//! | `misbehave` | faults that can be enabled |
//! | `node` | the server: start, accept loop, shutdown |

#![forbid(unsafe_code)]

mod api;
mod connection;
mod form;
mod frames;
mod guests;
mod identity;
mod inventory;
mod misbehave;
mod node;
mod permissions;
mod relay;
mod ticket;
mod worker;

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Largest value of `--clock`, in seconds: 30 years. The year of a date has four digits.
const MAX_CLOCK: i64 = 30 * 365 * 86_400;

/// The target node of a migration, for tests: `POST …/mtunnel`, `GET …/mtunnelwebsocket`, and the
/// queries about version, cluster, permissions, storages, bridges and guests.
///
/// Prints one JSON line when it listens: {"address","port","fingerprint","token_file"}. The fingerprint
/// is null without TLS.
/// Ends on SIGTERM, SIGINT or end of file on stdin, and stops its workers first.
#[derive(Parser)]
#[command(version, after_long_help = misbehave::HELP, max_term_width = 80)]
struct Arguments {
    /// IP address to listen on; the certificate is for this address and `localhost`
    #[arg(long, default_value = "127.0.0.1")]
    listen: IpAddr,
    /// Port to listen on; 0 selects a free port
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Directory for sockets, logs (<vmid>.log) and the token file; created if missing
    #[arg(long, required_unless_present = "make_certificate")]
    dir: Option<PathBuf>,
    /// Perl program that runs as the worker of each tunnel
    #[arg(long, required_unless_present = "make_certificate")]
    worker: Option<PathBuf>,
    /// Name of this node in request paths
    #[arg(long, default_value = "target")]
    node: String,
    /// File with the API token; created (mode 0600) if missing [default: DIR/token]
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Act as a node without capabilities: version replies carry no `caps`
    #[arg(long)]
    old: bool,
    /// Act as a node without pve-tunnel: no direct connections
    #[arg(long)]
    no_direct: bool,
    /// The user of the token lacks Sys.Modify on /
    #[arg(long)]
    no_privilege: bool,
    /// File with the privileges of the token, a JSON object of the shape of the data of
    /// `GET /access/permissions`; default: all privileges that a migration needs
    #[arg(long, value_name = "FILE")]
    permissions: Option<PathBuf>,
    /// File with the data of `GET /cluster/options`, a JSON object; default: no options
    #[arg(long, value_name = "FILE", value_parser = inventory::options)]
    cluster_options: Option<inventory::Options>,
    /// Version of Proxmox VE that the node reports
    #[arg(long, value_name = "VERSION", default_value = "9.1.4")]
    pve_version: inventory::PveVersion,
    /// Storage of the node: avail=BYTES is its free space [default: that of DIR], content=TYPE what it
    /// stores [default: images and rootdir], and inactive its state; may be repeated
    #[arg(long, value_name = "ID[,PROPERTY]...", default_value = "local")]
    storage: Vec<inventory::Storage>,
    /// Bridge of the node; may be repeated
    #[arg(long, value_name = "NAME", default_value = "vmbr0", value_parser = inventory::name)]
    bridge: Vec<String>,
    /// Create DIR/<vmid>.conf with a lock at `POST …/mtunnel`, and refuse guests that have one, as
    /// Proxmox VE does; only `quit` with `cleanup` removes it
    #[arg(long)]
    create_guests: bool,
    /// Seconds that the clock in the header `Date` is ahead; negative: behind
    #[arg(long, value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-MAX_CLOCK..=MAX_CLOCK))]
    clock: i64,
    /// File with the migration networks of this node [default: DIR/remote-migration.cfg]
    #[arg(long, value_name = "FILE")]
    configuration: Option<PathBuf>,
    /// Faults to enable, separated by commas; --help ends with the list of faults
    #[arg(long, value_delimiter = ',')]
    misbehave: Vec<misbehave::Misbehaviour>,
    /// Support this TLS version only
    #[arg(long, value_enum)]
    tls: Option<identity::TlsVersion>,
    /// Do not use TLS; loopback addresses only
    #[arg(long, conflicts_with = "tls")]
    plain: bool,
    /// Leave the sizes of kernel buffers to the kernel, as pveproxy does; for links with a delay
    #[arg(long)]
    system_buffers: bool,
    /// Write cert.pem and key.pem (mode 0600) for --listen into this directory and exit
    #[arg(long, value_name = "DIR")]
    make_certificate: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("testnode: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), node::NodeError> {
    if let Some(directory) = arguments.make_certificate {
        let identity = identity::Identity::new(arguments.listen)?;
        announce(&identity.write_pem(&directory)?);
        return Ok(());
    }
    let (Some(dir), Some(worker)) = (arguments.dir, arguments.worker) else {
        return Ok(()); // unreachable: clap requires both
    };
    let settings = node::Settings {
        listen: arguments.listen,
        port: arguments.port,
        dir,
        worker,
        node: arguments.node,
        token_file: arguments.token_file,
        profile: worker::NodeProfile {
            old: arguments.old,
            no_direct: arguments.no_direct,
            no_privilege: arguments.no_privilege,
            configuration: arguments.configuration,
        },
        inventory: inventory::Inventory {
            version: arguments.pve_version,
            options: arguments.cluster_options.unwrap_or_default(),
            storages: arguments.storage,
            bridges: arguments.bridge,
        },
        permissions: arguments.permissions,
        create_guests: arguments.create_guests,
        clock: arguments.clock,
        misbehaviours: misbehave::Misbehaviours::new(arguments.misbehave),
        tls: arguments.tls,
        plain: arguments.plain,
        system_buffers: arguments.system_buffers,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(node::NodeError::Runtime)?;
    let ended = runtime.block_on(node::serve(settings, announce));
    // The thread that waits for the end of stdin may still be blocked in read().
    runtime.shutdown_background();
    ended
}

/// Prints the ready line to stdout, where the parent process reads it.
fn announce(line: &serde_json::Value) {
    let mut stdout = std::io::stdout().lock();
    // Ignored if the reader is gone.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Writes one line to stderr. Callers must not pass a token, a ticket or a query string.
pub(crate) fn log(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
