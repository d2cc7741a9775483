//! Two stunnels, one on each side, with their defaults.

use super::pair::{Addresses, Pair};
use super::process::installed;
use pem::Pem;
use std::fs;
use std::process::Command;

/// The defaults are kept, because no option makes stunnel faster here: TCP_NODELAY is on, Debian's
/// OpenSSL has no kernel TLS, and the size of stunnel's buffers is fixed at compile time.
const COMMON: &str = "
foreground = quiet
pid =
syslog = no
debug = crit
";

/// The TLS version, cipher and group that pve-tunnel negotiates, so that both do the same work.
const TLS: &str = "
sslVersion = TLSv1.3
ciphersuites = TLS_AES_128_GCM_SHA256
curves = X25519
";

/// One stunnel between the source and TLS, one between TLS and the sink.
pub fn pair() -> Result<Pair, String> {
    let program = installed("stunnel")?;
    Ok(Pair::new(|addresses| {
        let (source, sink, port) = (addresses.source(), addresses.sink(), addresses.port);
        let (source, sink) = (source.display(), sink.display());
        let (certificate, key) = identity(addresses);
        let client = format!(
            "{COMMON}[client]{TLS}client = yes\naccept = {source}\nconnect = 127.0.0.1:{port}\n"
        );
        let server = format!(
            "{COMMON}[server]{TLS}accept = 127.0.0.1:{port}\nconnect = {sink}\n\
             cert = {certificate}\nkey = {key}\n"
        );
        let stunnel = |name, configuration| {
            let path = addresses.file(name);
            fs::write(&path, configuration).unwrap();
            let mut command = Command::new(&program);
            command.arg(path);
            command
        };
        addresses.start(
            ("stunnel client", stunnel("client.conf", client)),
            ("stunnel server", stunnel("server.conf", server)),
        )
    }))
}

/// Writes a new certificate and its key, and returns their paths.
fn identity(addresses: &Addresses) -> (String, String) {
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name, tag, contents: Vec<u8>| {
        let path = addresses.file(name);
        fs::write(&path, pem::encode(&Pem::new(tag, contents))).unwrap();
        path.display().to_string()
    };
    (
        write(
            "certificate.pem",
            "CERTIFICATE",
            identity.cert.der().to_vec(),
        ),
        write("key.pem", "PRIVATE KEY", identity.key_pair.serialize_der()),
    )
}
