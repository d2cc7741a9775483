#![allow(clippy::unwrap_used)]
use super::{AsRawFd, Local, Pipe, Registration};
use socket2::{MsgHdr, SockRef};
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Peer;
use tokio::net::UnixStream;

fn pair() -> (Peer, Local) {
    let (ours, theirs) = Peer::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (theirs, Local::new(UnixStream::from_std(ours).unwrap()))
}

async fn read_all(local: &Local, step: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        let count = local.read(&mut buffer).await.unwrap();
        if count == 0 {
            return all;
        }
        all.extend_from_slice(&buffer[..count]);
    }
}

#[tokio::test]
async fn reads_everything_in_any_step_until_the_half_close() {
    let data: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8).collect();
    for step in [1, 2, 3, 4096, 131_072] {
        let (mut peer, local) = pair();
        let sent = data.clone();
        let writer = std::thread::spawn(move || {
            peer.write_all(&sent).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        });
        assert_eq!(read_all(&local, step).await, data, "step {step}");
        local.write_all(b"answer").await.unwrap();
        local.close();
        drop(local);
        let mut answer = Vec::new();
        writer.join().unwrap().read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer", "step {step}");
    }
}

#[tokio::test]
async fn data_written_before_a_close_is_read_even_with_an_unread_answer() {
    let (mut peer, local) = pair();
    local.write_all(b"this stays unread").await.unwrap();
    peer.write_all(b"last data").unwrap();
    drop(peer);
    assert_eq!(read_all(&local, 4).await, b"last data");
}

#[tokio::test]
async fn dropping_it_resets_a_peer_that_has_written() {
    let (mut peer, local) = pair();
    peer.write_all(b"request").unwrap();
    assert_eq!(local.read(&mut [0; 16]).await.unwrap(), 7);
    local.write_all(b"part of an answer").await.unwrap();
    drop(local);
    let mut answer = Vec::new();
    let error = peer.read_to_end(&mut answer).unwrap_err();
    assert_eq!(answer, b"part of an answer");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn failing_keeps_a_silent_peer_from_an_end_of_stream() {
    let (mut peer, local) = pair();
    local.write_all(b"truncated").await.unwrap();
    let failing = tokio::spawn(async move { local.fail().await });
    peer.set_nonblocking(true).unwrap();
    let mut part = [0; 9];
    peer.read_exact(&mut part).unwrap();
    tokio::task::yield_now().await;
    assert_eq!(
        peer.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    peer.write_all(b"x").unwrap();
    failing.await.unwrap();
    assert_eq!(
        peer.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn failing_keeps_a_reader_that_will_write_nothing_from_an_end_of_stream() {
    let (mut peer, local) = pair();
    peer.shutdown(Shutdown::Write).unwrap();
    local.write_all(b"truncated").await.unwrap();
    let failing = tokio::spawn(async move { local.fail().await });
    let mut part = [0; 9];
    peer.read_exact(&mut part).unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!failing.is_finished());
    peer.set_nonblocking(true).unwrap();
    assert_eq!(
        peer.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    drop(peer);
    failing.await.unwrap();
}

#[tokio::test]
async fn closing_with_unread_data_is_never_an_orderly_end() {
    for _ in 0..500 {
        let (mut peer, local) = pair();
        peer.write_all(b"unread").unwrap();
        let reader = std::thread::spawn(move || peer.read(&mut [0]));
        local.close();
        drop(local);
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn passed_descriptors_are_dropped_and_all_bytes_are_kept() {
    let (peer, local) = pair();
    let data: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
    for piece in data.chunks(7) {
        // A cmsghdr (man 3 cmsg): its length, its level and type, one descriptor, padding.
        let mut control = [0; 24];
        control[..8].copy_from_slice(&20_u64.to_ne_bytes());
        control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        control[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
        control[16..20].copy_from_slice(&peer.as_raw_fd().to_ne_bytes());
        let buffers = [IoSlice::new(piece)];
        let message = MsgHdr::new().with_buffers(&buffers).with_control(&control);
        SockRef::from(&peer).sendmsg(&message, 0).unwrap();
    }
    peer.shutdown(Shutdown::Write).unwrap();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    assert_eq!(read_all(&local, 100).await, data);
    // Other tests of this process may open some descriptors at the same time.
    assert!(open() < before + 100);
}

#[tokio::test]
async fn any_interleaving_of_writes_and_reads_keeps_every_byte() {
    for seed in 1..200_u32 {
        let mut state = seed;
        let mut random = |bound: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % bound
        };
        let (mut peer, local) = pair();
        let (mut written, mut read) = (0_usize, 0_usize);
        while written < 3000 {
            for _ in 0..random(3) {
                let piece: Vec<u8> = (0..1 + random(40) as usize)
                    .map(|i| ((written + i) % 251) as u8)
                    .collect();
                peer.write_all(&piece).unwrap();
                written += piece.len();
            }
            while read < written && random(3) > 0 {
                let mut buffer = vec![0; 1 + random(30) as usize];
                let count = local.read(&mut buffer).await.unwrap();
                assert!(count > 0, "seed {seed}");
                for byte in &buffer[..count] {
                    assert_eq!(usize::from(*byte), read % 251, "seed {seed}");
                    read += 1;
                }
            }
        }
        if random(2) == 0 {
            peer.shutdown(Shutdown::Write).unwrap();
        } else {
            drop(peer);
        }
        assert_eq!(read_all(&local, 17).await.len(), written - read);
    }
}

impl AsRef<Pipe> for Pipe {
    fn as_ref(&self) -> &Pipe {
        self
    }
}

/// Reads as a lane among others does. Returns also whether the data was moved.
async fn read_or_move(
    local: &Local,
    registration: &mut Registration,
    most: usize,
) -> (Vec<u8>, bool) {
    let mut buffer = vec![0; most];
    let pipe = || Pipe::new(most).ok();
    let read = local.read_or_move(registration, &mut buffer, pipe);
    let (count, pipe) = read.await.unwrap();
    buffer.truncate(count);
    if let Some(pipe) = &pipe {
        pipe.read(&mut [IoSliceMut::new(&mut buffer)]).unwrap();
    }
    (buffer, pipe.is_some())
}

#[tokio::test]
async fn data_is_moved_and_read_in_any_order_until_the_half_close() {
    let data: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
    let (mut peer, local) = pair();
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        let mut rest = &sent[..];
        for length in [1, 7, 20_000, 100_000].into_iter().cycle() {
            let (piece, later) = rest.split_at(rest.len().min(length));
            peer.write_all(piece).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        peer.shutdown(Shutdown::Write).unwrap();
        peer
    });
    let mut registration = Registration::default();
    let mut read = Vec::new();
    loop {
        let (bytes, _) = match read.len() % 3 {
            0 => {
                let mut buffer = vec![0; 30_000];
                let count = local.read(&mut buffer).await.unwrap();
                (buffer[..count].to_vec(), false)
            }
            1 => read_or_move(&local, &mut registration, 100).await,
            _ => read_or_move(&local, &mut registration, 60_000).await,
        };
        if bytes.is_empty() {
            break;
        }
        read.extend_from_slice(&bytes);
    }
    assert!(read == data, "{} of {} bytes", read.len(), data.len());
    drop(writer.join().unwrap());
}

#[tokio::test]
async fn dropping_it_after_a_move_resets_a_peer_that_has_written() {
    let (mut peer, local) = pair();
    peer.write_all(&[1; 50_000]).unwrap();
    let mut registration = Registration::default();
    let (bytes, moved) = read_or_move(&local, &mut registration, 100_000).await;
    assert_eq!((bytes.len(), moved), (49_999, true));
    drop(local);
    let error = peer.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_task_of_another_thread_needs_no_event_of_the_first_one() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    // Nothing polls this runtime, as if its thread had no core.
    let first = runtime();
    let entered = first.enter();
    let (mut peer, local) = pair();
    drop(entered);
    let reader = std::thread::spawn(move || {
        runtime().block_on(async {
            let mut registration = Registration::default();
            let mut read = Vec::new();
            while read.len() < 3 {
                let (bytes, _) = read_or_move(&local, &mut registration, 100).await;
                read.extend(bytes);
            }
            read
        })
    });
    for byte in b"abc" {
        std::thread::sleep(std::time::Duration::from_millis(20));
        peer.write_all(&[*byte]).unwrap();
    }
    assert_eq!(reader.join().unwrap(), b"abc");
}
