//! Two nodes that know nothing of each other but a fingerprint, and everybody else.

use pve_tunnel::tls::{Client, Identity, Mismatch, Peer, Server, TlsError, describe};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::UnixTime;
use rustls::server::ParsedCertificate;
use std::collections::HashSet;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testing::assert_error;
use testing::pattern;
use testing::tls::{
    LIMIT, alert_after_handshake, certificate_of, complete_handshake, established, identities,
    pinned_pair,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

const HOUR: Duration = Duration::from_secs(60 * 60);

#[tokio::test]
async fn two_that_pin_each_other_speak_tls_1_3() {
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
async fn a_target_is_known_by_its_certificate_and_not_by_a_name() {
    let (source, target) = identities();
    let (client, server) = pinned_pair(&source, &target);
    for host in ["pve2.example.com", "2001:db8::7", "fe80::7%eth1"] {
        let (near, far) = UnixStream::pair().unwrap();
        let (near, far) = tokio::join!(client.handshake(host, near), server.handshake(far));
        near.unwrap();
        // Nor does anybody on the way read one.
        assert_eq!(far.unwrap().get_ref().1.server_name(), None);
    }
}

#[tokio::test]
async fn a_second_connection_is_no_resumption() {
    let (source, target) = identities();
    let (client, server) = pinned_pair(&source, &target);
    for _ in 0..3 {
        let (near, far) = complete_handshake(&client, &server).await;
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        // A ticket, if there were one, would come before the first byte.
        far.write_all(b"x").await.unwrap();
        far.flush().await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'x');
        let connection = near.get_ref().1;
        assert_eq!(
            connection.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
        assert_eq!(connection.tls13_tickets_received(), 0);
    }
}

/// `first` ends its direction, and `second` still delivers all it has.
async fn outlast<A, B>(mut first: A, mut second: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    first.write_all(b"my last").await.unwrap();
    first.shutdown().await.unwrap();
    let mut heard = Vec::new();
    second.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"my last");

    let much = pattern(1 << 20);
    let answer = async {
        second.write_all(&much).await.unwrap();
        second.shutdown().await.unwrap();
    };
    let mut all = Vec::new();
    let (_, end) = tokio::join!(answer, first.read_to_end(&mut all));
    end.unwrap();
    assert!(all == much);
}

#[tokio::test]
async fn either_end_can_finish_first_and_still_hear_the_other() {
    let (near, far) = established().await;
    timeout(LIMIT, outlast(near, far)).await.unwrap();
    let (near, far) = established().await;
    timeout(LIMIT, outlast(far, near)).await.unwrap();
}

#[tokio::test]
async fn an_end_without_close_notify_is_truncation() {
    let cut = |mut socket: UnixStream| async move { socket.shutdown().await.unwrap() };

    let (mut near, far) = established().await;
    cut(far.into_inner().0).await;
    let error = near.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("close_notify"), "{error}");
    assert!(TlsError::from_alert(Peer::Target, &error).is_none());

    let (near, mut far) = established().await;
    cut(near.into_inner().0).await;
    let error = far.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("close_notify"), "{error}");
}

#[tokio::test]
async fn another_target_is_refused_with_both_fingerprints() {
    let (source, target) = identities();
    let stranger = Identity::one_time().unwrap();
    let client = Client::direct(&source, target.fingerprint()).unwrap();
    let server = Server::direct(&stranger, source.fingerprint()).unwrap();
    let (near, far) = complete_handshake(&client, &server).await;
    assert_error!(
        near.unwrap_err(),
        TlsError::Mismatch(Mismatch {
            peer: Peer::Target,
            ..
        }),
        "the target's certificate",
        &format!("fingerprint {}", stranger.fingerprint()),
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
async fn another_source_is_refused_with_both_fingerprints() {
    let (source, target) = identities();
    let stranger = Identity::one_time().unwrap();
    let client = Client::direct(&stranger, target.fingerprint()).unwrap();
    let server = Server::direct(&target, source.fingerprint()).unwrap();
    let (near, far) = complete_handshake(&client, &server).await;
    assert_error!(
        far.unwrap_err(),
        TlsError::Mismatch(Mismatch {
            peer: Peer::Source,
            ..
        }),
        "the source's certificate",
        &format!("fingerprint {}", stranger.fingerprint()),
        &format!("expected {}", source.fingerprint())
    );
    // To the stranger, the handshake looked well.
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
async fn a_certificate_counts_only_in_its_time() {
    let now = SystemTime::now();
    let over = Identity::valid_between(now - 72 * HOUR, now - 50 * HOUR).unwrap();
    let ahead = Identity::valid_between(now + 7 * HOUR / 2, now + 5 * HOUR).unwrap();
    for (wrong, words) in [
        (&over, "certificate expired 2 days ago"),
        (&ahead, "certificate is not valid for another 3 h"),
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

/// The certificate is judged as by a peer whose clock shows other times.
#[tokio::test]
async fn clocks_may_differ_by_a_day_and_a_migration_may_take_weeks() {
    let certificate = certificate_of(&Identity::one_time().unwrap()).await;
    let mut anchors = RootCertStore::empty();
    anchors.add(certificate.clone()).unwrap();
    let certificate = ParsedCertificate::try_from(&certificate).unwrap();
    let algorithms = default_provider().signature_verification_algorithms.all;
    let judge = |now: SystemTime| {
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
        verify_server_cert_signed_by_trust_anchor(&certificate, &anchors, &[], now, algorithms)
    };
    let now = SystemTime::now();
    judge(now - 23 * HOUR).unwrap();
    judge(now + 29 * 24 * HOUR).unwrap();
    judge(now - 25 * HOUR).unwrap_err();
    judge(now + 31 * 24 * HOUR).unwrap_err();
}

#[test]
fn no_two_identities_are_alike() {
    let all: HashSet<String> = (0..100)
        .map(|_| Identity::one_time().unwrap().fingerprint().to_string())
        .collect();
    assert_eq!(all.len(), 100);
}

#[test]
fn debug_shows_the_fingerprint_and_no_key() {
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
