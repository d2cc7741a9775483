//! Keys that change every few records, in both directions at the same time.

use pve_tunnel::tls::{Client, Fingerprint, Identity, Server};
use rustls::version::TLS13;
use std::time::Duration;
use testing::openssl;
use testing::pattern;
use testing::tls::{
    STEP_TIMEOUT, Stream, certified, established, self_signed, server_name, unverifying_client,
    unverifying_server,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsStream as RustlsStream;

/// What each end sends.
const AMOUNT: usize = 8 << 20;

/// How often the key changes of a stream are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Sends and receives at the same time. Returns how often this end and the peer have changed their
/// keys.
async fn exchange(stream: Stream) -> (u64, u64) {
    let data = pattern(AMOUNT);
    let (mut read, mut write) = split(stream);
    let mut received = Vec::new();
    let send = async {
        for piece in data.chunks(100_000) {
            write.write_all(piece).await.unwrap();
            write.flush().await.unwrap();
        }
        write.shutdown().await.unwrap();
    };
    let (_, end) = tokio::join!(send, read.read_to_end(&mut received));
    end.unwrap();
    assert!(received == data);
    read.unsplit(write).key_changes()
}

#[tokio::test]
async fn both_ends_change_their_keys_during_a_full_duplex_transfer() {
    let (near, far) = established().await;
    // Sixteen of the records are reserved.
    let both = async {
        tokio::join!(
            exchange(near.limit_key_to(30)),
            exchange(far.limit_key_to(25))
        )
    };
    let ((sent, received), far) = timeout(STEP_TIMEOUT, both).await.unwrap();
    assert_eq!(far, (received, sent));
    assert!(sent > 30 && received > 30, "{sent} {received}");
}

/// The same for a peer that uses rustls. It changes its key, and requests the same from the other end,
/// before each piece. Returns the number of pieces.
async fn exchange_with_updates(mut stream: RustlsStream<UnixStream>) -> u64 {
    let data = pattern(AMOUNT);
    let mut received = vec![0; AMOUNT];
    let mut moved = 0;
    let mut pieces = 0;
    for piece in data.chunks(50_000) {
        let refreshed = match &mut stream {
            RustlsStream::Client(stream) => stream.get_mut().1.refresh_traffic_keys(),
            RustlsStream::Server(stream) => stream.get_mut().1.refresh_traffic_keys(),
        };
        refreshed.unwrap();
        pieces += 1;
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        let part = &mut received[moved..moved + piece.len()];
        stream.read_exact(part).await.unwrap();
        moved += piece.len();
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert!(received == data);
    pieces
}

async fn require_exchange(ours: Stream, peer: RustlsStream<UnixStream>) {
    let both = async { tokio::join!(exchange(ours), exchange_with_updates(peer)) };
    let ((sent, received), pieces) = timeout(STEP_TIMEOUT, both).await.unwrap();
    assert_eq!(received, pieces);
    // One answer to several requests is enough.
    assert!((10..=pieces).contains(&sent), "{sent} of {pieces}");
}

#[tokio::test]
async fn a_target_follows_the_key_updates_of_a_source_and_answers_them() {
    let (key, certificate) = self_signed();
    let target = Identity::one_time().unwrap();
    let server = Server::direct(&target, Fingerprint::of(certificate.der())).unwrap();
    let client = unverifying_client(&TLS13, Some(certified(certificate.der().clone(), &key)));
    let (near, far) = UnixStream::pair().unwrap();
    let (peer, ours) = tokio::join!(client.connect(server_name(), near), server.handshake(far));
    require_exchange(ours.unwrap(), peer.unwrap().into()).await;
}

#[tokio::test]
async fn a_source_follows_the_key_updates_of_a_target_and_answers_them() {
    let (key, certificate) = self_signed();
    let source = Identity::one_time().unwrap();
    let client = Client::direct(&source, Fingerprint::of(certificate.der())).unwrap();
    let server = unverifying_server(&TLS13, certified(certificate.der().clone(), &key));
    let (near, far) = UnixStream::pair().unwrap();
    let (ours, peer) = tokio::join!(client.handshake("192.0.2.7", near), server.accept(far));
    require_exchange(ours.unwrap(), peer.unwrap().into()).await;
}

#[tokio::test]
async fn key_updates_of_openssl_are_followed_and_answered() {
    let certificate = openssl::Certificate::new(&["-newkey", "rsa:2048"]);
    let mut server = openssl::Server::sink(&certificate, 1, &["-tls1_3"]);
    let client = Client::new(Some(certificate.fingerprint())).unwrap();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let mut stream = client.handshake("127.0.0.1", tcp).await.unwrap();
    for number in 0..5 {
        // The command K: change the key, and request the same from the peer.
        server.type_line("K");
        // The server ignores what it reads together with a command.
        let followed = async {
            while stream.key_changes().1 == number {
                let waited = timeout(CHECK_INTERVAL, stream.read(&mut [0])).await;
                assert!(waited.is_err(), "{waited:?}");
            }
        };
        timeout(STEP_TIMEOUT, followed).await.unwrap();
        let line = format!("line {number}\n");
        server.type_line(line.trim());
        let mut received = vec![0; line.len()];
        let read = stream.read_exact(&mut received);
        timeout(STEP_TIMEOUT, read).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&received), line);
        stream
            .write_all(format!("answer {number}\n").as_bytes())
            .await
            .unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.key_changes(), (number + 1, number + 1));
    }
    assert!(stream.tickets() > 0);
    stream.shutdown().await.unwrap();
    drop(stream);
    let output = server.finish();
    for number in 0..5 {
        assert!(output.contains(&format!("answer {number}")), "{output}");
    }
    assert!(!output.contains("error"), "{output}");
}
