//! The minimum that the work can cost: programs without handshake, counters, orderly close or a
//! second direction. Each is this program again, in a role.

mod copy;
mod endpoints;
mod tls;

use super::pair::{Addresses, Pair};
use super::process::Process;
use serde_json::{Value, json};
use std::process::Command;
use testing::role;

/// The roles of this module, by name.
pub const ROLES: &[(&str, fn())] = &[
    ("bare_hop", copy::hop),
    ("bare_splice_client", copy::splice_client),
    ("bare_splice_server", copy::splice_server),
    ("bare_tls_client", tls::client),
    ("bare_tls_server", tls::server),
];

/// UNIX socket, rustls, TCP, rustls, UNIX socket.
pub fn tls_pair() -> Pair {
    pair("bare_tls", &tls::options(false))
}

/// rustls, TCP, rustls. The client creates the bytes and the server drops them, see
/// `Connection::transfer_inside`.
pub fn tls_inside() -> Pair {
    pair("bare_tls", &tls::options(true))
}

/// UNIX socket, pipe, TCP, pipe, UNIX socket, connected by splice(2).
pub fn splice_pair() -> Pair {
    pair("bare_splice", &json!({}))
}

/// UNIX socket to UNIX socket: what the two processes of a pair do apart from the network.
pub fn hop() -> Pair {
    Pair::new(|addresses| {
        let hop = command("bare_hop", addresses, &json!({}));
        vec![("bare hop", Process::start(&hop))]
    })
}

fn pair(role: &str, options: &Value) -> Pair {
    Pair::new(|addresses| {
        let [client, server] =
            ["client", "server"].map(|end| command(&format!("{role}_{end}"), addresses, options));
        addresses.start(("bare client", client), ("bare server", server))
    })
}

fn command(role: &str, addresses: &Addresses, options: &Value) -> Command {
    let mut options = options.clone();
    options["source"] = json!(addresses.source());
    options["sink"] = json!(addresses.sink());
    options["port"] = json!(addresses.port);
    role::command(role, &options)
}
