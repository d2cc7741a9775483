//! The API end of a migration target, for tests and the demonstration.
//!
//! It stands where `pveproxy` and `pvedaemon` stand on a Proxmox VE node: it takes the `mtunnel`
//! request, starts the worker (a Perl program), and relays websockets to UNIX sockets. Its
//! websocket frames are made and read by tungstenite, so that a mistake in pve-tunnel's own codec
//! cannot hide behind the same mistake here.
//!
//! | module | owns |
//! |---|---|
//! | `api` | the HTTP requests: who may, what is answered |
//! | `worker` | starting and ending workers |
//! | `ticket` | the API token and the tunnel tickets |
//! | `relay` | one upgraded connection to one UNIX socket |
//! | `frames` | what of RFC 6455 the relay takes and sends, by tungstenite |
//! | `wire` | TCP with or without TLS, and ending it without close_notify |
//! | `identity` | the certificate made at start |
//! | `misbehave` | the faults that can be switched on |
//! | `node` | all of it together, from listening to ending |

#![forbid(unsafe_code)]

mod api;
mod form;
mod frames;
mod identity;
mod misbehave;
mod node;
mod relay;
mod ticket;
mod wire;
mod worker;

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// The target node of a migration, for tests: `POST …/mtunnel`, `GET …/mtunnelwebsocket`.
///
/// Prints one JSON line when it listens: {"address","port","fingerprint","token_file"}.
/// Ends on SIGTERM or when stdin ends, and takes its workers with it.
#[derive(Parser)]
#[command(version, after_long_help = misbehave::HELP)]
struct Arguments {
    /// Literal address to listen on; it is also the certificate's name, with `localhost`
    #[arg(long, default_value = "127.0.0.1")]
    listen: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Directory for sockets, logs (<vmid>.log) and the token file; made if missing
    #[arg(long, required_unless_present = "make_certificate")]
    dir: Option<PathBuf>,
    /// Perl program to run as the worker of each tunnel
    #[arg(long, required_unless_present = "make_certificate")]
    worker: Option<PathBuf>,
    /// Name of this node in request paths
    #[arg(long, default_value = "target")]
    node: String,
    /// File with the API token; taken if it exists, made (0600) otherwise [default: DIR/token]
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Be a node from before capabilities: version replies carry no `caps`
    #[arg(long)]
    old: bool,
    /// Be a node without pve-tunnel: no direct connections
    #[arg(long)]
    no_direct: bool,
    /// The token's user lacks Sys.Modify on /
    #[arg(long)]
    no_privilege: bool,
    /// This node's networks for migrations [default: DIR/remote-migration.cfg]
    #[arg(long, value_name = "FILE")]
    configuration: Option<PathBuf>,
    /// Faults to show, separated by commas; the list is at the end of --help
    #[arg(long, value_delimiter = ',')]
    misbehave: Vec<misbehave::Item>,
    /// Speak this TLS version only
    #[arg(long, value_enum)]
    tls: Option<identity::TlsVersion>,
    /// No TLS at all; loopback addresses only
    #[arg(long, conflicts_with = "tls")]
    plain: bool,
    /// Only write cert.pem and key.pem (0600) for --listen into this directory, and end
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
        return Ok(()); // clap has refused this already
    };
    let settings = node::Settings {
        listen: arguments.listen,
        port: arguments.port,
        dir,
        worker,
        node: arguments.node,
        token_file: arguments.token_file,
        traits: worker::Traits {
            old: arguments.old,
            no_direct: arguments.no_direct,
            no_privilege: arguments.no_privilege,
            configuration: arguments.configuration,
        },
        misbehaviours: misbehave::Misbehaviours::new(arguments.misbehave),
        tls: arguments.tls,
        plain: arguments.plain,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(node::NodeError::Runtime)?;
    let ended = runtime.block_on(node::serve(settings, announce));
    // The thread that waits for stdin to end may be waiting still.
    runtime.shutdown_background();
    ended
}

/// Prints the one line on stdout that the starter reads.
fn announce(line: &serde_json::Value) {
    let mut stdout = std::io::stdout().lock();
    // Nobody reads: then nobody waits for the line either.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Writes one line to stderr; callers see to it that no token, ticket or query string is in it.
pub(crate) fn log(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
