//! A source for the `tcp` plane that does not use the library: it implements docs/protocol.md.

use ring::hmac;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

/// The address and port in a listener's answer to `open`.
pub fn endpoint(opened: &Value) -> SocketAddr {
    let address: IpAddr = opened["addresses"][0].as_str().unwrap().parse().unwrap();
    let port = opened["port"].as_u64().unwrap();
    SocketAddr::new(address, u16::try_from(port).unwrap())
}

/// Connects and requests a forward. Returns the listener's status, or none if the listener closed
/// the connection instead.
pub fn connect_to_forward(opened: &Value, number: u32) -> (TcpStream, Option<u8>) {
    let mut stream = TcpStream::connect(endpoint(opened)).unwrap();
    let mut challenge = [0; 40];
    stream.read_exact(&mut challenge).unwrap();
    let status = respond_to(opened, &mut stream, &challenge, number);
    (stream, status)
}

/// Responds to a listener's challenge and requests a forward. Returns the status, or none if the
/// listener closed the connection instead.
pub fn respond_to(
    opened: &Value,
    stream: &mut TcpStream,
    challenge: &[u8; 40],
    number: u32,
) -> Option<u8> {
    assert_eq!(challenge[..8], *b"pvetun\0\x01");
    let mut message = challenge[8..].to_vec();
    message.extend(number.to_be_bytes());
    let proof = hmac::sign(&key(opened), &message);
    stream.write_all(&number.to_be_bytes()).unwrap();
    stream.write_all(proof.as_ref()).unwrap();
    let mut status = [0];
    stream.read_exact(&mut status).ok().map(|()| status[0])
}

fn key(opened: &Value) -> hmac::Key {
    let hex = opened["key"].as_str().unwrap();
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .map(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap())
        .collect();
    hmac::Key::new(hmac::HMAC_SHA256, &bytes)
}
