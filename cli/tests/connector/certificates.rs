//! Certificates of the target's API that OpenSSL accepts, and so Proxmox VE.

use crate::tls::refusal_of;
use pve_tunnel::tls::Fingerprint;
use rustls::crypto::ring::default_provider;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use testing::connector::executable;
use testing::openssl::{Certificate, Server};
use testing::target::Target;

/// What the server of these tests answers to an upgrade after a successful TLS handshake.
const ACCEPTED: &[&str] = &["refused the websocket upgrade: 200"];

/// The result of a connection to this server: the reason why there is no websocket. Without a
/// pin, the certificate itself is one of the system's CA certificates.
fn reason(server: &Server, certificate: &Certificate, pinned: bool) -> String {
    let mut command = Command::new(executable());
    command
        .arg("connect")
        .env("SSL_CERT_FILE", certificate.pem());
    let url = format!("wss://{}/x?ticket=T&socket=S", server.address);
    refusal_of(
        &mut command,
        &url,
        pinned.then(|| certificate.fingerprint()),
    )
}

fn assert_contains(name: &str, reason: &str, words: &[&str]) {
    for word in words {
        assert!(
            reason.contains(word),
            "{name}: {word:?} is not in {reason:?}"
        );
    }
}

/// With a pin, only the fingerprint and the possession of the key count. Without one, the
/// certificate is verified as strictly as rustls does.
#[test]
fn a_certificate_is_judged_by_its_fingerprint_if_there_is_one() {
    let made = Certificate::new;
    const RSA: [&str; 2] = ["-newkey", "rsa:2048"];
    let with = |arguments: &[&str]| made(&[&RSA, arguments].concat());
    let curve = |name: &str| {
        made(&[
            "-newkey",
            "ec",
            "-pkeyopt",
            &format!("ec_paramgen_curve:{name}"),
        ])
    };
    let unusable = |kind| -> &'static [&'static str] {
        match kind {
            "P-521" => &[
                "a P-521 key",
                "RSA with 2048 to 8192 bits, P-256, P-384 or Ed25519",
            ],
            "Ed448" => &["an Ed448 key", "RSA with 2048 to 8192 bits"],
            _ => unreachable!(),
        }
    };
    let cases: [(&str, Certificate, &[&str], &[&str]); 13] = [
        (
            "RSA",
            with(&["-addext", "basicConstraints=CA:FALSE"]),
            ACCEPTED,
            ACCEPTED,
        ),
        (
            "P-384",
            made(&[
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-384",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ]),
            ACCEPTED,
            ACCEPTED,
        ),
        (
            "Ed25519",
            made(&["-newkey", "ed25519", "-addext", "basicConstraints=CA:FALSE"]),
            ACCEPTED,
            ACCEPTED,
        ),
        (
            "version 1",
            Certificate::version_1(),
            ACCEPTED,
            &["is not trusted", "X.509 version", "fingerprint"],
        ),
        (
            "unknown critical extension",
            with(&["-addext", "1.2.3.4=critical,ASN1:UTF8String:x"]),
            ACCEPTED,
            &["is not trusted", "critical extension", "fingerprint"],
        ),
        (
            "CA",
            with(&["-addext", "basicConstraints=critical,CA:TRUE"]),
            ACCEPTED,
            &["is not trusted", "the certificate of a CA", "fingerprint"],
        ),
        (
            "signed with SHA-1",
            with(&["-sha1", "-addext", "basicConstraints=CA:FALSE"]),
            ACCEPTED,
            &["is not trusted", "SHA-1", "fingerprint"],
        ),
        (
            "for clients only",
            with(&[
                "-addext",
                "basicConstraints=CA:FALSE",
                "-addext",
                "extendedKeyUsage=clientAuth",
            ]),
            ACCEPTED,
            &["is not trusted", "not for servers", "fingerprint"],
        ),
        (
            "RSA-PSS",
            made(&[
                "-newkey",
                "rsa-pss",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-addext",
                "basicConstraints=CA:FALSE",
            ]),
            ACCEPTED,
            // The key of an RSA-PSS certificate cannot verify the signatures of other certificates.
            &["is not trusted", "fingerprint"],
        ),
        (
            "RSA-1024",
            made(&["-newkey", "rsa:1024"]),
            &["an RSA key with 1024 bits", "RSA with 2048 to 8192 bits"],
            &["an RSA key with 1024 bits"],
        ),
        (
            "P-521",
            curve("P-521"),
            unusable("P-521"),
            unusable("P-521"),
        ),
        (
            "Ed448",
            made(&["-newkey", "ed448"]),
            unusable("Ed448"),
            unusable("Ed448"),
        ),
        (
            "secp256k1",
            curve("secp256k1"),
            // OpenSSL does not use such a certificate with a client that does not support the curve.
            &["nothing in common"],
            &["nothing in common"],
        ),
    ];
    for (name, certificate, pinned, unpinned) in &cases {
        let server = Server::start(certificate, &[]);
        assert_contains(name, &reason(&server, certificate, true), pinned);
        assert_contains(name, &reason(&server, certificate, false), unpinned);
        // TLS 1.2 has other signatures.
        if *pinned == ACCEPTED && *name != "RSA-PSS" {
            let server = Server::start(certificate, &["-tls1_2"]);
            assert_contains(name, &reason(&server, certificate, true), pinned);
        }
    }
}

/// Not even the structure of a certificate counts, except for its key.
#[test]
fn a_pinned_certificate_without_a_key_is_refused_with_the_reason() {
    let bytes = CertificateDer::from(b"not a certificate".to_vec());
    let other = Certificate::new(&["-newkey", "ed25519"]);
    let key = PrivateKeyDer::from_pem_file(other.key()).unwrap();
    let key = any_supported_type(&key).unwrap();
    let pin = Fingerprint::of(&bytes);
    let address = serve(CertifiedKey::new(vec![bytes], key), &rustls::version::TLS13);
    let url = format!("wss://{address}/x?ticket=T&socket=S");
    let reason = refusal_of(Command::new(executable()).arg("connect"), &url, Some(pin));
    let expected = "the expected one but cannot be used: it is not a well-formed certificate";
    assert_contains("no certificate", &reason, &[expected]);
}

#[test]
fn an_expired_certificate_is_accepted_with_its_fingerprint_only() {
    let certificate = Certificate::expired();
    let server = Server::start(&certificate, &[]);
    assert_contains("pinned", &reason(&server, &certificate, true), ACCEPTED);
    let unpinned = reason(&server, &certificate, false);
    assert_contains(
        "unpinned",
        &unpinned,
        &["is not trusted", "it expired", "fingerprint"],
    );
}

#[test]
fn a_server_without_common_tls_parameters_is_reported_with_those_of_this_node() {
    const NOTHING: &[&str] = &[
        "nothing in common",
        "X25519, P-256 and P-384",
        "/etc/default/pveproxy",
    ];
    let rsa = Certificate::new(&["-newkey", "rsa:2048"]);
    let pss = Certificate::new(&["-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let p521 = Certificate::new(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    let cases: [(&Certificate, &[&str], &[&str]); 6] = [
        (&rsa, &["-groups", "P-521"], NOTHING),
        (&rsa, &["-tls1_2", "-groups", "P-521"], NOTHING),
        (&rsa, &["-tls1_2", "-cipher", "AES128-SHA"], NOTHING),
        (&p521, &["-tls1_2"], NOTHING),
        (&pss, &["-tls1_2"], &["an RSASSA-PSS key", "TLS 1.3"]),
        (
            &rsa,
            &["-tls1_1"],
            &["supports neither TLS 1.2 nor TLS 1.3"],
        ),
    ];
    for (certificate, arguments, expected) in cases {
        let server = Server::start(certificate, arguments);
        let name = format!("{arguments:?}");
        assert_contains(&name, &reason(&server, certificate, true), expected);
    }
}

/// The address of a server that presents this certificate and completes handshakes.
fn serve(certified: CertifiedKey, version: &'static SupportedProtocolVersion) -> SocketAddr {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    let config = Arc::new(config);
    Target::raw(move |mut tcp| {
        let mut tls = ServerConnection::new(config.clone()).unwrap();
        while tls.complete_io(&mut tcp).is_ok() && tls.is_handshaking() {}
    })
}

/// A certificate is public: a server that presents it without its key is refused.
#[test]
fn a_pinned_certificate_without_its_key_is_refused() {
    for arguments in [["-newkey", "rsa:2048"].as_slice(), &["-newkey", "ed25519"]] {
        let (pinned, other) = (Certificate::new(arguments), Certificate::new(arguments));
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let certificate = CertificateDer::from_pem_file(pinned.pem()).unwrap();
            let key = PrivateKeyDer::from_pem_file(other.key()).unwrap();
            let key = any_supported_type(&key).unwrap();
            let address = serve(CertifiedKey::new(vec![certificate], key), version);
            let url = format!("wss://{address}/x?ticket=T&socket=S");
            let mut command = Command::new(executable());
            let reason = refusal_of(command.arg("connect"), &url, Some(pinned.fingerprint()));
            let expected = "presents the expected certificate but cannot sign with its key";
            assert_contains("copy", &reason, &[expected]);
        }
    }
}
