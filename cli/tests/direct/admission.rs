//! The time between the handshake and the first byte: the listener connects to the target's
//! program, and the source may disappear.

use ring::hmac;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;
use testing::listener::Listener;

/// Much longer than any step of a test takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A program whose listen queue is full. Returns its socket and the connection in the queue.
fn busy(path: &Path) -> (UnixListener, Vec<UnixStream>) {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    (
        UnixListener::from(socket),
        vec![UnixStream::connect(path).unwrap()],
    )
}

/// Responds to the challenge with a valid proof and requests a forward. Does not read the status.
fn start_handshake(listener: &Listener, number: u32) -> TcpStream {
    let open = listener.open();
    let mut stream = TcpStream::connect(SocketAddr::new(open.addresses[0], open.port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut challenge = [0; 40];
    stream.read_exact(&mut challenge).unwrap();
    let mut signed = challenge[8..].to_vec();
    signed.extend(number.to_be_bytes());
    let digits = open.key.to_hex();
    let key: Vec<u8> = (0..64)
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect();
    let proof = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed);
    let mut response = number.to_be_bytes().to_vec();
    response.extend(proof.as_ref());
    stream.write_all(&response).unwrap();
    stream
}

/// Waits until the handshake is complete and the listener connects to the program.
fn wait_for_handshake(listener: &mut Listener) {
    listener.stat_until(|stat| stat.connections == 1 && stat.half_open == 0);
}

#[test]
fn the_listener_waits_for_a_program_with_a_full_queue() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    let (program, _waiting) = busy(&path);
    let mut listener = Listener::tcp();
    let number = listener.forward(&path);
    let mut source = start_handshake(&listener, number);
    wait_for_handshake(&mut listener);
    assert_eq!(listener.stat().refused.total(), 0);
    program.accept().unwrap();
    let (mut local, _) = program.accept().unwrap();
    let mut status = [9];
    source.read_exact(&mut status).unwrap();
    assert_eq!(status, [0]);
    source.write_all(b"some data").unwrap();
    let mut received = [0; 9];
    local.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"some data");
}

#[test]
fn a_source_that_disappears_before_it_is_accepted_does_not_cause_an_empty_stream() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    let (program, _waiting) = busy(&path);
    let mut listener = Listener::tcp();
    let number = listener.forward(&path);
    let source = start_handshake(&listener, number);
    wait_for_handshake(&mut listener);
    // The kernel resets the connections of a killed process in this way.
    SockRef::from(&source)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(source);
    program.accept().unwrap();
    let (mut local, _) = program.accept().unwrap();
    listener.stat_until(|stat| stat.refused.malformed == 1);
    local.set_nonblocking(true).unwrap();
    let error = local.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    // When the program writes, it receives the error.
    local.set_nonblocking(false).unwrap();
    local.set_read_timeout(Some(LIMIT)).unwrap();
    local.write_all(b"?").unwrap();
    let error = local.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
