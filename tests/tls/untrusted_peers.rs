//! Peers that must not complete a direct connection, and the error that each of them causes.

use pve_tunnel::tls::{Client, Fingerprint, Identity, Peer, Server, TlsError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::AlertDescription;
use rustls::version::{TLS12, TLS13};
use std::io;
use testing::assert_error;
use testing::tls::{
    STEP_TIMEOUT, alert_after_handshake, certificate_of, certified, complete_handshake, identities,
    pinned_pair, self_signed, server_name, unverifying_client, unverifying_server,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The alert in an error of a peer's handshake or read.
fn alert(error: &io::Error) -> AlertDescription {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("not an alert: {error}"),
    }
}

fn server() -> Server {
    let (source, target) = identities();
    pinned_pair(&source, &target).1
}

fn client() -> Client {
    let (source, target) = identities();
    pinned_pair(&source, &target).0
}

#[tokio::test]
async fn a_source_without_a_certificate_is_refused() {
    let server = server();
    let (near, far) = UnixStream::pair().unwrap();
    let anonymous = unverifying_client(&TLS13, None);
    let (peer, refused) = tokio::join!(
        anonymous.connect(server_name(), near),
        server.handshake(far)
    );
    assert_error!(
        refused.unwrap_err(),
        TlsError::NoCertificate(Peer::Source),
        "the source presented no certificate"
    );
    assert_error!(
        alert_after_handshake(peer.unwrap()).await,
        TlsError::Refused { .. },
        "it requires a certificate"
    );
}

#[tokio::test]
async fn a_source_with_an_older_tls_is_refused() {
    let (key, certificate) = self_signed();
    let identity = Identity::one_time().unwrap();
    let server = Server::direct(&identity, Fingerprint::of(certificate.der())).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let old = unverifying_client(&TLS12, Some(certified(certificate.der().clone(), &key)));
    let (old, refused) = tokio::join!(old.connect(server_name(), near), server.handshake(far));
    assert_error!(
        refused.unwrap_err(),
        TlsError::OldVersion(Peer::Source),
        "the source does not support TLS 1.3"
    );
    assert_eq!(alert(&old.unwrap_err()), AlertDescription::ProtocolVersion);
}

#[tokio::test]
async fn a_target_with_an_older_tls_is_refused() {
    let (key, certificate) = self_signed();
    let identity = Identity::one_time().unwrap();
    let client = Client::direct(&identity, Fingerprint::of(certificate.der())).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let old = unverifying_server(&TLS12, certified(certificate.der().clone(), &key));
    let (refused, old) = tokio::join!(client.handshake("192.0.2.7", near), old.accept(far));
    assert_error!(
        refused.unwrap_err(),
        TlsError::OldVersion(Peer::Target),
        "the target does not support TLS 1.3"
    );
    old.unwrap_err();
}

/// First bytes of other protocols, some of which use ports of the migration range.
const NOT_TLS: [&[u8]; 6] = [
    b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
    b"GET / HTTP/1.1\r\nHost: 192.0.2.7:60000\r\n\r\n",
    b"pvetun\x00\x01 and then a nonce of some thirty-two bytes",
    b"QEVM\x00\x00\x00\x03 as an incoming migration begins",
    b"NBDMAGICIHAVEOPT",
    &[0; 64],
];

#[tokio::test]
async fn a_peer_that_does_not_use_tls_is_reported() {
    let (client, server) = (client(), server());
    for bytes in NOT_TLS {
        let (mut peer, far) = UnixStream::pair().unwrap();
        peer.write_all(bytes).await.unwrap();
        let refused = timeout(STEP_TIMEOUT, server.handshake(far)).await.unwrap();
        assert_error!(
            refused.unwrap_err(),
            TlsError::NotTls(Peer::Source),
            "the data from the source is not TLS"
        );

        let (near, mut peer) = UnixStream::pair().unwrap();
        peer.write_all(bytes).await.unwrap();
        let refused = timeout(STEP_TIMEOUT, client.handshake("192.0.2.7", near))
            .await
            .unwrap();
        assert_error!(
            refused.unwrap_err(),
            TlsError::NotTls(Peer::Target),
            "the data from the target is not TLS"
        );
    }
}

#[tokio::test]
async fn a_peer_that_closes_during_the_handshake_is_reported() {
    let (client, server) = (client(), server());
    for sent in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let (mut peer, far) = UnixStream::pair().unwrap();
        peer.write_all(sent).await.unwrap();
        peer.shutdown().await.unwrap();
        assert_error!(
            server.handshake(far).await.unwrap_err(),
            TlsError::Ended(Peer::Source),
            "the source closed the connection during the TLS handshake"
        );
    }
    let (near, mut peer) = UnixStream::pair().unwrap();
    peer.shutdown().await.unwrap();
    assert_error!(
        client.handshake("192.0.2.7", near).await.unwrap_err(),
        TlsError::Ended(Peer::Target),
        "the target closed"
    );
}

/// The attacker controls the network and has an identity of its own for each end.
#[tokio::test]
async fn a_man_in_the_middle_is_refused_by_both_ends() {
    let (source, target) = identities();
    let (client, server) = pinned_pair(&source, &target);
    let (as_source, as_target) = identities();
    let to_source = Server::direct(&as_target, source.fingerprint()).unwrap();
    let to_target = Client::direct(&as_source, target.fingerprint()).unwrap();

    let (near, attacker) = complete_handshake(&client, &to_source).await;
    assert_error!(
        near.unwrap_err(),
        TlsError::Mismatch(_),
        &as_target.fingerprint().to_string(),
        &target.fingerprint().to_string()
    );
    // The attacker gets no stream from which it could read.
    assert_error!(
        attacker.unwrap_err(),
        TlsError::Refused { .. },
        "does not accept this node's certificate"
    );

    let (attacker, far) = complete_handshake(&to_target, &server).await;
    assert_error!(
        far.unwrap_err(),
        TlsError::Mismatch(_),
        &as_source.fingerprint().to_string(),
        &source.fingerprint().to_string()
    );
    assert_error!(
        alert_after_handshake(attacker.unwrap()).await,
        TlsError::Refused { .. },
        "does not accept this node's certificate"
    );
}

/// Certificates are public. The attacker presents the certificate of an end, but can only sign with
/// its own key.
#[tokio::test]
async fn a_copied_certificate_without_its_key_is_refused() {
    let (source, target) = identities();
    let (client, server) = pinned_pair(&source, &target);
    let (key, certificate) = self_signed();
    let own = || certified(certificate.der().clone(), &key);

    // The attacker gets the certificates by connecting to each end.
    let of_target = certificate_of(&target).await;
    assert_eq!(Fingerprint::of(&of_target), target.fingerprint());
    let trusting = Client::direct(&source, Fingerprint::of(certificate.der())).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let attacker = unverifying_server(&TLS13, own());
    let (_, accepted) = tokio::join!(trusting.handshake("192.0.2.7", near), attacker.accept(far));
    let of_source = accepted.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(Fingerprint::of(&of_source), source.fingerprint());

    let (near, far) = UnixStream::pair().unwrap();
    let copy = unverifying_server(&TLS13, certified(of_target, &key));
    let (refused, attacker) = tokio::join!(client.handshake("192.0.2.7", near), copy.accept(far));
    assert_error!(
        refused.unwrap_err(),
        TlsError::NoKey(Peer::Target),
        "the target presents the expected certificate but cannot sign with its key"
    );
    attacker.unwrap_err();

    let (near, far) = UnixStream::pair().unwrap();
    let copy = unverifying_client(&TLS13, Some(certified(of_source, &key)));
    let (attacker, refused) =
        tokio::join!(copy.connect(server_name(), near), server.handshake(far));
    assert_error!(
        refused.unwrap_err(),
        TlsError::NoKey(Peer::Source),
        "the source presents the expected certificate but cannot sign with its key"
    );
    attacker.unwrap().read_u8().await.unwrap_err();
}

/// The error names the problem for the developer of another implementation.
#[tokio::test]
async fn a_ca_certificate_is_refused_with_the_reason() {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(["pve-tunnel".to_owned()]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).unwrap();
    let pin = Fingerprint::of(certificate.der());
    let server = Server::direct(&Identity::one_time().unwrap(), pin).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let ca = unverifying_client(&TLS13, Some(certified(certificate.der().clone(), &key)));
    let (_near, refused) = tokio::join!(ca.connect(server_name(), near), server.handshake(far));
    assert_error!(
        refused.unwrap_err(),
        TlsError::Unusable {
            peer: Peer::Source,
            ..
        },
        "is the expected one but cannot be used",
        "it is the certificate of a CA"
    );
}
