//! Handshakes between two nodes that pin each other's fingerprint, and between nodes that do not.

use pve_tunnel::tls::{Client, Identity, Mismatch, Peer, Server, TlsError, describe};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::UnixTime;
use rustls::server::{Acceptor, ParsedCertificate};
use std::collections::HashSet;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testing::assert_error;
use testing::pattern;
use testing::tls::{
    STEP_TIMEOUT, alert_after_handshake, certificate_of, complete_handshake, established,
    identities, pinned_pair,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

const HOUR: Duration = Duration::from_secs(60 * 60);

#[tokio::test]
async fn two_nodes_that_pin_each_other_use_tls_1_3() {
    let (mut near, mut far) = established().await;
    let agreed = describe(&near);
    assert!(agreed.starts_with("TLSv1_3 TLS13_"), "{agreed}");
    assert_eq!(describe(&far), agreed);

    near.write_all(b"ping").await.unwrap();
    near.flush().await.unwrap();
    let mut four = [0; 4];
    far.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
    far.write_all(b"pong").await.unwrap();
    far.flush().await.unwrap();
    near.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"pong");
}

#[tokio::test]
async fn a_target_is_verified_by_its_certificate_and_not_by_a_name() {
    let (source, target) = identities();
    let (client, server) = pinned_pair(&source, &target);
    for host in ["pve2.example.com", "2001:db8::7", "fe80::7%eth1"] {
        let (near, far) = UnixStream::pair().unwrap();
        let (near, far) = tokio::join!(client.handshake(host, near), server.handshake(far));
        near.unwrap();
        far.unwrap();
    }
}

/// An observer could read it.
#[tokio::test]
async fn a_source_sends_no_server_name() {
    let (source, target) = identities();
    let (client, _) = pinned_pair(&source, &target);
    let (near, mut far) = UnixStream::pair().unwrap();
    let observe = async {
        let mut acceptor = Acceptor::default();
        loop {
            let mut bytes = [0; 4096];
            let count = far.read(&mut bytes).await.unwrap();
            acceptor.read_tls(&mut &bytes[..count]).unwrap();
            if let Some(accepted) = acceptor.accept().unwrap() {
                return accepted.client_hello().server_name().map(str::to_owned);
            }
        }
    };
    tokio::select! {
        name = observe => assert_eq!(name, None),
        _ = client.handshake("pve2.example.com", near) => unreachable!(),
    }
}

#[tokio::test]
async fn a_second_connection_is_not_a_resumption() {
    let (source, target) = identities();
    let (client, server) = pinned_pair(&source, &target);
    for _ in 0..3 {
        let (near, far) = complete_handshake(&client, &server).await;
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        // A session ticket would arrive before the first byte.
        far.write_all(b"x").await.unwrap();
        far.flush().await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'x');
        assert_eq!(near.agreed().kind, Some(rustls::HandshakeKind::Full));
        assert_eq!(near.tickets(), 0);
    }
}

/// Ends the direction of `first`, and requires that `second` can still send all of its data.
async fn end_first_direction<A, B>(mut first: A, mut second: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    first.write_all(b"the end").await.unwrap();
    first.shutdown().await.unwrap();
    let mut received = Vec::new();
    second.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"the end");

    let data = pattern(1 << 20);
    let answer = async {
        second.write_all(&data).await.unwrap();
        second.shutdown().await.unwrap();
    };
    let mut all = Vec::new();
    let (_, end) = tokio::join!(answer, first.read_to_end(&mut all));
    end.unwrap();
    assert!(all == data);
}

#[tokio::test]
async fn either_end_can_finish_first_and_still_receive_data() {
    let (near, far) = established().await;
    timeout(STEP_TIMEOUT, end_first_direction(near, far))
        .await
        .unwrap();
    let (near, far) = established().await;
    timeout(STEP_TIMEOUT, end_first_direction(far, near))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_end_without_close_notify_is_truncation() {
    let cut = |mut socket: UnixStream| async move { socket.shutdown().await.unwrap() };

    let (mut near, far) = established().await;
    cut(far.into_inner()).await;
    let error = near.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("close_notify"), "{error}");
    assert!(TlsError::from_alert(Peer::Target, &error).is_none());

    let (near, mut far) = established().await;
    cut(near.into_inner()).await;
    let error = far.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("close_notify"), "{error}");
}

#[tokio::test]
async fn an_unexpected_target_is_refused_with_both_fingerprints() {
    let (source, target) = identities();
    let other = Identity::one_time().unwrap();
    let client = Client::direct(&source, target.fingerprint()).unwrap();
    let server = Server::direct(&other, source.fingerprint()).unwrap();
    let (near, far) = complete_handshake(&client, &server).await;
    assert_error!(
        near.unwrap_err(),
        TlsError::Mismatch(Mismatch {
            peer: Peer::Target,
            ..
        }),
        "the target's certificate",
        &format!("fingerprint {}", other.fingerprint()),
        &format!("expected {}", target.fingerprint())
    );
    assert_error!(
        far.unwrap_err(),
        TlsError::Refused {
            peer: Peer::Source,
            ..
        },
        "the source refused",
        "does not accept this node's certificate"
    );
}

#[tokio::test]
async fn an_unexpected_source_is_refused_with_both_fingerprints() {
    let (source, target) = identities();
    let other = Identity::one_time().unwrap();
    let client = Client::direct(&other, target.fingerprint()).unwrap();
    let server = Server::direct(&target, source.fingerprint()).unwrap();
    let (near, far) = complete_handshake(&client, &server).await;
    assert_error!(
        far.unwrap_err(),
        TlsError::Mismatch(Mismatch {
            peer: Peer::Source,
            ..
        }),
        "the source's certificate",
        &format!("fingerprint {}", other.fingerprint()),
        &format!("expected {}", source.fingerprint())
    );
    // The handshake of the unexpected source has succeeded before it receives the alert.
    assert_error!(
        alert_after_handshake(near.unwrap()).await,
        TlsError::Refused {
            peer: Peer::Target,
            ..
        },
        "the target refused",
        "does not accept this node's certificate"
    );
}

#[tokio::test]
async fn a_certificate_is_refused_outside_its_validity() {
    let now = SystemTime::now();
    let expired = Identity::valid_between(now - 72 * HOUR, now - 50 * HOUR).unwrap();
    let not_yet_valid = Identity::valid_between(now + 7 * HOUR / 2, now + 5 * HOUR).unwrap();
    for (wrong, words) in [
        (&expired, "certificate expired 2 days ago"),
        (&not_yet_valid, "certificate is not valid for another 3 h"),
    ] {
        let right = Identity::one_time().unwrap();

        let (client, server) = pinned_pair(&right, wrong);
        let (near, far) = complete_handshake(&client, &server).await;
        assert_error!(
            near.unwrap_err(),
            TlsError::Expired {
                peer: Peer::Target,
                ..
            } | TlsError::NotYetValid {
                peer: Peer::Target,
                ..
            },
            &format!("the target's {words}"),
            "compare the clocks"
        );
        assert_error!(
            far.unwrap_err(),
            TlsError::Refused {
                peer: Peer::Source,
                ..
            },
            "not valid by its clock"
        );

        let (client, server) = pinned_pair(wrong, &right);
        let (near, far) = complete_handshake(&client, &server).await;
        assert_error!(
            far.unwrap_err(),
            TlsError::Expired {
                peer: Peer::Source,
                ..
            } | TlsError::NotYetValid {
                peer: Peer::Source,
                ..
            },
            &format!("the source's {words}"),
            "compare the clocks"
        );
        assert_error!(
            alert_after_handshake(near.unwrap()).await,
            TlsError::Refused {
                peer: Peer::Target,
                ..
            },
            "not valid by its clock"
        );
    }
}

/// Verifies the certificate as a peer with another clock does.
#[tokio::test]
async fn a_certificate_is_valid_with_clocks_a_day_apart_and_for_four_weeks() {
    let certificate = certificate_of(&Identity::one_time().unwrap()).await;
    let mut anchors = RootCertStore::empty();
    anchors.add(certificate.clone()).unwrap();
    let certificate = ParsedCertificate::try_from(&certificate).unwrap();
    let algorithms = default_provider().signature_verification_algorithms.all;
    let verify = |now: SystemTime| {
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
        verify_server_cert_signed_by_trust_anchor(&certificate, &anchors, &[], now, algorithms)
    };
    let now = SystemTime::now();
    verify(now - 23 * HOUR).unwrap();
    verify(now + 29 * 24 * HOUR).unwrap();
    verify(now - 25 * HOUR).unwrap_err();
    verify(now + 31 * 24 * HOUR).unwrap_err();
}

#[test]
fn all_identities_differ() {
    let all: HashSet<String> = (0..100)
        .map(|_| Identity::one_time().unwrap().fingerprint().to_string())
        .collect();
    assert_eq!(all.len(), 100);
}

#[test]
fn debug_output_has_the_fingerprint_and_no_key() {
    let (source, target) = identities();
    assert_eq!(
        format!("{source:?}"),
        format!("Identity({})", source.fingerprint())
    );
    let (client, server) = pinned_pair(&source, &target);
    for (shown, pinned) in [
        (format!("{client:?}"), target.fingerprint()),
        (format!("{server:?}"), source.fingerprint()),
    ] {
        assert!(shown.contains(&pinned.to_string()), "{shown}");
        assert!(
            shown.contains("key: EcdsaSigningKey { algorithm: ECDSA }"),
            "{shown}"
        );
        assert!(shown.len() < 20_000, "{shown}");
    }
}
