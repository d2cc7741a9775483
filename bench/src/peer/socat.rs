//! A pair of socats.

use super::{Peer, Process, installed};
use std::process::Command;

/// The most that it moves at once.
const BLOCK: &str = "131072";

/// One between the source and TCP, one between TCP and the sink.
pub fn pair() -> Result<Peer, String> {
    let program = installed("socat")?;
    Ok(Peer::new(|site| {
        let (near, far, port) = (site.near(), site.far(), site.port);
        let start = |name, from: String, to: String| {
            let mut command = Command::new(&program);
            command.args(["-b", BLOCK, &from, &to]);
            Process::start(name, &command)
        };
        let server = start(
            "socat server",
            format!("TCP4-LISTEN:{port},bind=127.0.0.1,nodelay"),
            format!("UNIX-CONNECT:{}", far.display()),
        );
        site.until_listening();
        let client = start(
            "socat client",
            format!("UNIX-LISTEN:{}", near.display()),
            format!("TCP4:127.0.0.1:{port},nodelay"),
        );
        vec![client, server]
    }))
}
