//! Between the hello and the first byte: the program that a connection is for, and what it sees of a
//! source that goes away just then.

use ring::hmac;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;
use testing::listener::Listener;

/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A program that listens and is busy: its queue is full, with the connections that fill it.
fn busy(path: &Path) -> (UnixListener, Vec<UnixStream>) {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    (
        UnixListener::from(socket),
        vec![UnixStream::connect(path).unwrap()],
    )
}

/// Knows the key, and asks for a forward; the listener's answer is still to come.
fn knock(listener: &Listener, number: u32) -> TcpStream {
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

/// Where the listener is with a connection whose hello is over: at the program's socket.
fn at_the_program(listener: &mut Listener) {
    listener.stat_until(|stat| stat.connections == 1 && stat.half_open == 0);
}

#[test]
fn a_program_with_a_full_queue_is_waited_for_as_on_one_node() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    let (program, _waiting) = busy(&path);
    let mut listener = Listener::tcp();
    let number = listener.forward(&path);
    let mut source = knock(&listener, number);
    at_the_program(&mut listener);
    assert_eq!(listener.stat().refused.total(), 0);
    program.accept().unwrap();
    let (mut local, _) = program.accept().unwrap();
    let mut status = [9];
    source.read_exact(&mut status).unwrap();
    assert_eq!(status, [0]);
    source.write_all(b"after all").unwrap();
    let mut heard = [0; 9];
    local.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"after all");
}

#[test]
fn a_source_that_goes_before_it_is_let_in_leaves_no_empty_stream_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    let (program, _waiting) = busy(&path);
    let mut listener = Listener::tcp();
    let number = listener.forward(&path);
    let source = knock(&listener, number);
    at_the_program(&mut listener);
    // As the kernel does for a process that is killed.
    SockRef::from(&source)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(source);
    program.accept().unwrap();
    let (mut local, _) = program.accept().unwrap();
    listener.stat_until(|stat| stat.refused.malformed == 1);
    local.set_nonblocking(true).unwrap();
    let seen = local.read(&mut [0]).unwrap_err();
    assert_eq!(seen.kind(), ErrorKind::WouldBlock);
    // When it says something, it hears that there is nobody.
    local.set_nonblocking(false).unwrap();
    local.set_read_timeout(Some(LIMIT)).unwrap();
    local.write_all(b"?").unwrap();
    let seen = local.read(&mut [0]).unwrap_err();
    assert_eq!(seen.kind(), ErrorKind::ConnectionReset);
}
