//! A pair of socats.

use super::pair::Pair;
use super::process::installed;
use std::process::Command;

/// The most that socat moves at a time, in bytes.
const BLOCK: &str = "131072";

/// One socat between the source and TCP, one between TCP and the sink.
pub fn pair() -> Result<Pair, String> {
    let program = installed("socat")?;
    Ok(Pair::new(|addresses| {
        let socat = |from: String, to: String| {
            let mut command = Command::new(&program);
            command.args(["-b", BLOCK, &from, &to]);
            command
        };
        let (source, sink, port) = (addresses.source(), addresses.sink(), addresses.port);
        let client = socat(
            format!("UNIX-LISTEN:{}", source.display()),
            format!("TCP4:127.0.0.1:{port},nodelay"),
        );
        let server = socat(
            format!("TCP4-LISTEN:{port},bind=127.0.0.1,nodelay"),
            format!("UNIX-CONNECT:{}", sink.display()),
        );
        addresses.start(("socat client", client), ("socat server", server))
    }))
}
