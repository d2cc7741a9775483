//! A tunnel from one UNIX socket to another, as one stream over several TCP connections, which
//! aggligator aggregates. The benchmarks compare pve-tunnel's lanes with it.
//!
//! It uses aggligator as aggligator's documentation does: with tokio's runtime of a thread for each
//! core, which the environment variable `TOKIO_WORKER_THREADS` changes, with streams that tokio
//! copies, and with TCP_NODELAY.
//!
//! The connections are added one by one. The crate aggligator-transport-tcp would open one for each
//! pair of interfaces, so not several over the same path.

use aggligator::alc::Channel;
use aggligator::control::{Control, Link};
use aggligator::io::{IoRx, IoTx};
use aggligator::{Cfg, Listener, Server, connect};
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::sleep;

const USAGE: &str = "\
Usage: aggligator-peer client UNIX_PATH ADDRESS:PORT LINKS
       aggligator-peer server ADDRESS:PORT UNIX_PATH

client accepts connections at a UNIX socket, and carries each of them over so
many TCP connections to the server. server carries each of them to another UNIX
socket.";

/// The most bytes that are copied at a time, and that a packet of aggligator contains.
const PACKET: NonZeroUsize = NonZeroUsize::new(64 << 10).unwrap();

/// The pause between attempts to replace a link.
const RECONNECT: Duration = Duration::from_secs(1);

/// aggligator's types for connections over TCP. Their number, from 0, is the tag of a link.
type Tx = IoTx<OwnedWriteHalf>;
type Rx = IoRx<OwnedReadHalf>;
type Links = Control<Tx, Rx, usize>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["client", path, address, links] => match links.parse() {
            Ok(links) => client(path, address, links).await,
            Err(error) => Err(format!("LINKS is '{links}': {error}")),
        },
        ["server", address, path] => server(address, path).await,
        _ => Err(USAGE.to_owned()),
    };
    let Err(error) = result;
    eprintln!("aggligator-peer: {error}");
    ExitCode::FAILURE
}

/// Ends only with an error. One connection of the UNIX socket does not end the others.
async fn client(path: &str, address: &str, links: NonZeroUsize) -> Result<Infallible, String> {
    let listener =
        UnixListener::bind(path).map_err(|error| format!("cannot listen at {path}: {error}"))?;
    loop {
        let (local, _) = listener
            .accept()
            .await
            .map_err(|error| format!("cannot accept a connection at {path}: {error}"))?;
        let address = address.to_owned();
        tokio::spawn(async move {
            match connection(&address, links.get()).await {
                Ok(channel) => carry(local, channel).await,
                Err(error) => eprintln!("aggligator-peer: cannot connect to {address}: {error}"),
            }
        });
    }
}

/// A new aggregated connection, after all of its links are connected.
async fn connection(address: &str, links: usize) -> Result<Channel, Box<dyn Error + Send + Sync>> {
    let (task, outgoing, control) = connect::<Tx, Rx, usize>(configuration());
    tokio::spawn(task.run());
    for number in 0..links {
        let link = add_link(&control, address, number).await?;
        tokio::spawn(keep_link(link, control.clone(), address.to_owned()));
    }
    Ok(outgoing.await?)
}

async fn add_link(control: &Links, address: &str, number: usize) -> io::Result<Link<usize>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok(control.add_io(read, write, number, &[]).await?)
}

/// Replaces a link each time it fails, until its connection has ended.
async fn keep_link(mut link: Link<usize>, control: Links, address: String) {
    while link.disconnected().await.should_reconnect() {
        link = loop {
            match add_link(&control, &address, *link.tag()).await {
                Ok(link) => break link,
                Err(_) if control.is_terminated() => return,
                Err(_) => sleep(RECONNECT).await,
            }
        };
    }
}

/// Ends only with an error.
async fn server(address: &str, path: &str) -> Result<Infallible, String> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen at {address}: {error}"))?;
    let server = Server::<Tx, Rx, usize>::new(configuration());
    let connections = server.listen().map_err(|error| error.to_string())?;
    tokio::spawn(serve(connections, path.to_owned()));
    let mut link = 0;
    loop {
        let (stream, _) = listener
            .accept()
            .await
            .map_err(|error| format!("cannot accept a connection at {address}: {error}"))?;
        let server = server.clone();
        tokio::spawn(async move {
            // Without TCP_NODELAY the link works, too.
            let _ = stream.set_nodelay(true);
            let (read, write) = stream.into_split();
            if let Err(error) = server.add_incoming_io(read, write, link, &[]).await {
                eprintln!("aggligator-peer: cannot add a link: {error}");
            }
        });
        link += 1;
    }
}

/// Carries each aggregated connection to the UNIX socket.
async fn serve(mut connections: Listener<Tx, Rx, usize>, path: String) {
    loop {
        let (task, channel, _) = match connections.accept().await {
            Ok(accepted) => accepted,
            Err(error) => return eprintln!("aggligator-peer: cannot accept: {error}"),
        };
        tokio::spawn(task.run());
        let path = path.clone();
        tokio::spawn(async move {
            match UnixStream::connect(&path).await {
                Ok(local) => carry(local, channel).await,
                Err(error) => eprintln!("aggligator-peer: cannot connect to {path}: {error}"),
            }
        });
    }
}

/// Copies in both directions until both have ended, or until one fails: the benchmark may close its
/// ends at any time.
async fn carry(mut local: UnixStream, channel: Channel) {
    let mut stream = channel.into_stream();
    let _ =
        copy_bidirectional_with_sizes(&mut local, &mut stream, PACKET.get(), PACKET.get()).await;
}

/// Its defaults, except for the size of packets: with 64 KiB in place of 8 KiB, aggligator takes
/// about half of the CPU time. Larger packets do not reduce it further.
fn configuration() -> Cfg {
    Cfg {
        io_write_size: PACKET,
        ..Cfg::default()
    }
}
