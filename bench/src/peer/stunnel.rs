//! A pair of stunnels.

use super::{Peer, Process, Site, installed};
use pem::Pem;
use std::fs;
use std::process::Command;

/// As an expert would set it up for this work. TCP_NODELAY is stunnel's default, there is no kernel
/// TLS in Debian's OpenSSL for it to use, and the size of its buffers is fixed when it is built.
const COMMON: &str = "
foreground = quiet
pid =
syslog = no
debug = crit
";

/// TLS as ours negotiates it.
const TLS: &str = "
sslVersion = TLSv1.3
ciphersuites = TLS_AES_128_GCM_SHA256
curves = X25519
";

/// One between the source and TLS, one between TLS and the sink.
pub fn pair() -> Result<Peer, String> {
    let program = installed("stunnel")?;
    Ok(Peer::new(|site| {
        let (near, far, port) = (site.near(), site.far(), site.port);
        let (near, far) = (near.display(), far.display());
        let (certificate, key) = identity(site);
        let server = format!(
            "{COMMON}[server]{TLS}accept = 127.0.0.1:{port}\nconnect = {far}\n\
             cert = {certificate}\nkey = {key}\n"
        );
        let client = format!(
            "{COMMON}[client]{TLS}client = yes\naccept = {near}\nconnect = 127.0.0.1:{port}\n"
        );
        let start = |name, settings| {
            let path = site.file(&format!("{name}.conf"));
            fs::write(&path, settings).unwrap();
            Process::start(name, Command::new(&program).arg(path))
        };
        let server = start("stunnel server", server);
        site.until_listening();
        vec![start("stunnel client", client), server]
    }))
}

/// The files of a certificate and its key.
fn identity(site: &Site) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name, tag, contents: Vec<u8>| {
        let path = site.file(name);
        fs::write(&path, pem::encode(&Pem::new(tag, contents))).unwrap();
        path.display().to_string()
    };
    (
        write("certificate.pem", "CERTIFICATE", made.cert.der().to_vec()),
        write("key.pem", "PRIVATE KEY", made.key_pair.serialize_der()),
    )
}
