//! The listener: its port, its limits and its counters.

use pve_tunnel::network::{PORTS, bind_port};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use testing::listener::Listener;
use testing::namespace::{add_addresses, in_namespace, run};
use testing::seam::{NegotiatedTunnel, Seam, plane_request, program};
use testing::tcp_source::{connect_to_forward, endpoint, respond_to};
use testing::{read_to_end, role, wait_until};

/// Much longer than any step of a test connections.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The limits on forwards, and on concurrent connections of each.
const FORWARDS: usize = 256;
const CONNECTIONS: usize = 256;

/// The limit on connections whose handshake is not over.
const HALF_OPEN: usize = 512;

/// Options for this network. The handshake limit is so long that it affects no test.
fn options(network: &str) -> Value {
    json!({ "plane": "tcp", "network": network, "node": "node", "hello_timeout": 120 })
}

/// A program of the target that passes its connections to the channel.
fn keeping_program() -> (
    tempfile::TempDir,
    std::path::PathBuf,
    mpsc::Receiver<UnixStream>,
) {
    let directory = tempfile::tempdir().unwrap();
    let (sender, connections) = mpsc::channel();
    let path = program(directory.path(), move |stream| {
        // Fails only if the test is over.
        let _ = sender.send(stream);
    });
    (directory, path, connections)
}

#[test]
fn two_concurrent_migrations_have_different_ports() {
    in_namespace(|| {
        let mut listeners = [Listener::tcp(), Listener::tcp()];
        let ports = listeners
            .each_ref()
            .map(|listener| endpoint(&listener.opened).port());
        assert_eq!(ports, [60_000, 60_001]);
        let keys = listeners
            .each_ref()
            .map(|listener| listener.opened["key"].clone());
        assert_ne!(keys[0], keys[1]);
        for listener in &mut listeners {
            let (_directory, path, connections) = keeping_program();
            let number = listener.forward(&path);
            assert_eq!(connect_to_forward(&listener.opened, number).1, Some(0));
            connections.recv_timeout(TIMEOUT).unwrap();
        }
        // The port of the first listener is free for the next one without delay.
        let [first, second] = listeners;
        first.end().0.unwrap();
        assert_eq!(endpoint(&Listener::tcp().opened).port(), 60_000);
        second.end().0.unwrap();
    });
}

#[test]
fn a_full_port_range_is_reported() {
    in_namespace(|| {
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut others: Vec<TcpListener> = PORTS
            .map(|port| TcpListener::bind((address, port)).unwrap())
            .collect();
        assert_eq!(others.len(), 50);
        let full = Listener::tcp();
        let error = full.opened["error"].as_str().unwrap().to_owned();
        for word in ["127.0.0.1", "60000", "60049"] {
            assert!(error.contains(word), "{error}");
        }
        let (ended, log) = full.end();
        assert_eq!(ended.unwrap_err().to_string(), error);
        assert!(log.contains(&error), "{log}");
        // Another address has its own ports. At each address, the first free port is used.
        assert!(bind_port("127.0.0.2".parse().unwrap()).is_ok());
        others.remove(31);
        assert_eq!(endpoint(&Listener::tcp().opened).port(), 60_031);
    });
}

#[test]
fn a_listener_listens_only_at_its_address() {
    in_namespace(|| {
        run("ip link add mig0 type veth peer name mig1");
        run("ip link set mig1 up");
        run("ip link set mig0 up");
        add_addresses("mig0", &["10.77.0.7/24", "fd77::7/64"]);
        for (network, address, others) in [
            ("10.77.0.0/24", "10.77.0.7", ["127.0.0.1", "::1", "fd77::7"]),
            ("fd77::/64", "fd77::7", ["127.0.0.1", "::1", "10.77.0.7"]),
            ("::1/128", "::1", ["127.0.0.1", "10.77.0.7", "fd77::7"]),
        ] {
            let mut listener = Listener::start(options(network));
            let at = endpoint(&listener.opened);
            assert_eq!(at, SocketAddr::new(address.parse().unwrap(), 60_000));
            let (_directory, path, connections) = keeping_program();
            let number = listener.forward(&path);
            assert_eq!(
                connect_to_forward(&listener.opened, number).1,
                Some(0),
                "{network}"
            );
            connections.recv_timeout(TIMEOUT).unwrap();
            for other in others {
                let other: IpAddr = other.parse().unwrap();
                let error = TcpStream::connect((other, at.port())).unwrap_err();
                assert_eq!(
                    error.raw_os_error(),
                    Some(libc::ECONNREFUSED),
                    "{network}: {other}"
                );
            }
            listener.end().0.unwrap();
        }
        // mig0 has an address of each family. The listener uses both, with one port.
        let _taken = TcpListener::bind(("fd77::7", 60_000)).unwrap();
        let both = Listener::start(options("mig0"));
        assert_eq!(both.opened["addresses"], json!(["10.77.0.7", "fd77::7"]));
        assert_eq!(both.opened["port"], 60_001);
        for address in ["10.77.0.7", "fd77::7"] {
            TcpStream::connect((address, 60_001)).unwrap();
        }
        // An alternative name is as good as the first one.
        run("ip link property add dev mig0 altname enp0s31f6-a-long-alternative-name");
        let named = Listener::start(options("enp0s31f6-a-long-alternative-name"));
        assert_eq!(named.opened["port"], 60_002);
    });
}

#[test]
fn a_listener_without_a_heartbeat_ends() {
    let mut options = options("127.0.0.0/8");
    options["heartbeat_timeout"] = json!(0.2);
    let listener = Listener::start(options);
    let error = listener.ended().unwrap_err().to_string();
    assert_eq!(error, "the source has had no heartbeat for 200ms");
}

#[test]
fn a_user_does_not_get_every_port() {
    if !nix::unistd::geteuid().is_root() {
        testing::report_skipped("listeners of one user: only root counts them", &"not root");
        return;
    }
    in_namespace(|| {
        let start = |user: &str| {
            let mut options = options("127.0.0.0/8");
            options["user"] = json!(user);
            Listener::start(options)
        };
        let mut listeners: Vec<Listener> = (0..8)
            .map(|number| start(&format!("mover@pve!token{number}")))
            .collect();
        assert!(listeners.iter().all(|one| one.opened["error"].is_null()));
        let error = start("mover@pve").opened["error"].clone();
        assert_eq!(
            error,
            "user 'mover@pve' already has 8 listeners on this node: wait until one of these migrations has ended"
        );
        assert!(start("other@pve").opened["error"].is_null());
        listeners.pop().unwrap().end().0.unwrap();
        assert!(start("mover@pve").opened["error"].is_null());
    });
}

#[test]
fn the_counters_of_each_outcome_are_correct() {
    let mut listener = Listener::start(options("127.0.0.0/8"));
    let (directory, path, connections) = keeping_program();
    let number = listener.forward(&path);
    let unused = directory.path().join("unused");
    assert_eq!((number, listener.forward(&unused)), (1, 2));
    let opened = listener.opened.clone();

    // One connection that has ended, one that stays open, one that is reset.
    let (mut ended, _) = connect_to_forward(&opened, number);
    let mut program = connections.recv_timeout(TIMEOUT).unwrap();
    ended.write_all(&[1; 1000]).unwrap();
    ended.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&program).0.len(), 1000);
    program.write_all(&[2; 77]).unwrap();
    drop(program);
    assert_eq!(read_to_end(&ended).0.len(), 77);

    let (mut open, _) = connect_to_forward(&opened, number);
    let mut kept = connections.recv_timeout(TIMEOUT).unwrap();
    open.write_all(&[3; 5000]).unwrap();
    kept.read_exact(&mut [0; 5000]).unwrap();

    let (cut, _) = connect_to_forward(&opened, number);
    let lost = connections.recv_timeout(TIMEOUT).unwrap();
    socket2::SockRef::from(&cut)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(cut);

    // One connection without a handshake, one for a socket without a program, two with unknown
    // numbers.
    let silent = TcpStream::connect(endpoint(&opened)).unwrap();
    assert_eq!(connect_to_forward(&opened, 2).1, Some(1));
    assert_eq!(connect_to_forward(&opened, 3).1, None);
    assert_eq!(connect_to_forward(&opened, u32::MAX).1, None);

    // The program of the reset connection has written nothing, so it has received no error yet, and this
    // connection is open, too.
    let stat = listener.stat_until(|stat| {
        let forward = &stat.forwards[0];
        (forward.failed, forward.open) == (1, 2) && (stat.refused.total(), stat.half_open) == (3, 1)
    });
    assert_eq!(stat.plane.name(), "tcp");
    assert_eq!(stat.connections, 7, "{stat:?}");
    assert_eq!(
        (stat.refused.socket, stat.refused.number),
        (1, 2),
        "{stat:?}"
    );
    let [forward, other] = &stat.forwards[..] else {
        panic!("{stat:?}")
    };
    assert_eq!(
        (forward.number, forward.path.as_str()),
        (1, path.to_str().unwrap())
    );
    assert_eq!((forward.connections, forward.failed), (3, 1), "{stat:?}");
    assert_eq!((forward.received, forward.sent), (6000, 77), "{stat:?}");
    assert_eq!(
        (other.connections, other.open, other.failed),
        (0, 0, 0),
        "{stat:?}"
    );
    drop((open, silent, lost, kept));
    let stat = listener.stat_until(|stat| stat.half_open == 0 && stat.forwards[0].open == 0);
    assert_eq!(stat.refused.malformed, 1, "{stat:?}");

    let last = listener.request(&json!({ "op": "close" }));
    assert_eq!(last, serde_json::to_value(&stat).unwrap());
    let (result, log) = listener.end();
    result.unwrap();
    assert!(log.contains("refused: there is no forward 3 "), "{log}");
}

#[test]
fn forwards_are_limited_and_a_path_is_one_forward() {
    let mut listener = Listener::tcp();
    let directory = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (1..=FORWARDS + 1)
        .map(|number| directory.path().join(format!("{number}.sock")))
        .collect();
    for (path, number) in paths[..FORWARDS].iter().zip(1..) {
        assert_eq!(listener.forward(path), number);
    }
    let full = listener.request(&json!({ "op": "forward", "path": paths[FORWARDS] }));
    assert_eq!(full, json!({ "error": "there are already 256 forwards" }));
    // A path that has a forward keeps its number, and the forward works.
    assert_eq!(listener.forward(&paths[199]), 200);
    let program = UnixListener::bind(&paths[199]).unwrap();
    let (mut stream, status) = connect_to_forward(&listener.opened, 200);
    assert_eq!(status, Some(0));
    stream.write_all(b"200").unwrap();
    let mut received = [0; 3];
    program
        .accept()
        .unwrap()
        .0
        .read_exact(&mut received)
        .unwrap();
    assert_eq!(&received, b"200");
    assert_eq!(listener.stat().forwards.len(), FORWARDS);
}

#[test]
fn malformed_paths_and_requests_are_refused_and_change_nothing() {
    let mut listener = Listener::tcp();
    for path in [
        "",
        "run/relative",
        &format!("/{}", "x".repeat(107)),
        "/run/a\0b",
    ] {
        let answer = listener.request(&json!({ "op": "forward", "path": path }));
        assert!(
            answer["error"]
                .as_str()
                .unwrap()
                .contains("at most 107 bytes"),
            "{answer}"
        );
    }
    let longest = format!("/{}", "x".repeat(106));
    assert_eq!(
        listener.request(&json!({ "op": "forward", "path": longest }))["number"],
        1
    );
    for line in [
        json!({ "op": "dance" }),
        json!({ "op": "forward" }),
        json!(7),
    ] {
        let answer = listener.request(&line);
        assert!(
            answer["error"]
                .as_str()
                .unwrap()
                .contains("does not support the request"),
            "{answer}"
        );
    }
    assert_eq!(listener.stat().forwards.len(), 1);
}

#[test]
fn connections_of_a_forward_are_limited_and_a_closed_one_makes_room() {
    let start = role::listeners();
    let mut listener = start(options("127.0.0.0/8"));
    let (_directory, path, connections) = keeping_program();
    let (_beside, other, others) = keeping_program();
    let number = listener.forward(&path);
    let beside = listener.forward(&other);
    let opened = listener.opened.clone();
    let mut streams: Vec<_> = (0..CONNECTIONS)
        .map(|_| connect_to_forward(&opened, number))
        .collect();
    assert!(streams.iter().all(|(_, status)| *status == Some(0)));
    let programs: Vec<_> = (0..CONNECTIONS)
        .map(|_| connections.recv_timeout(TIMEOUT).unwrap())
        .collect();
    assert_eq!(connect_to_forward(&opened, number).1, None);
    let stat = listener.stat_until(|stat| stat.refused.crowded == 1);
    assert_eq!(stat.forwards[0].open, CONNECTIONS as u64, "{stat:?}");
    assert!(
        connections.try_recv().is_err(),
        "the program received the connection above the limit"
    );
    // Another forward has its own limit.
    assert_eq!(connect_to_forward(&opened, beside).1, Some(0));
    others.recv_timeout(TIMEOUT).unwrap();
    // All connections work.
    for ((stream, _), mut program) in streams.iter_mut().zip(&programs) {
        stream.write_all(b"x").unwrap();
        program.read_exact(&mut [0]).unwrap();
    }
    let (stream, _) = streams.remove(100);
    drop(programs);
    drop(stream);
    listener.stat_until(|stat| stat.forwards[0].open < CONNECTIONS as u64);
    assert_eq!(connect_to_forward(&opened, number).1, Some(0));
}

#[test]
fn a_connection_above_the_limit_waits_at_the_source() {
    let mut tunnel = NegotiatedTunnel::on_plane(
        "tls",
        Seam::with_listeners(role::listeners()),
        &plane_request("secure"),
    );
    let (_directory, path, connections) = keeping_program();
    let forward = tunnel
        .connector
        .forward(&tunnel.target, path.to_str().unwrap());
    let connect = || {
        let mut stream = UnixStream::connect(&forward).unwrap();
        stream.write_all(b"!").unwrap();
        stream
    };
    let mut locals: Vec<_> = (0..CONNECTIONS).map(|_| connect()).collect();
    let mut programs: Vec<_> = (0..CONNECTIONS)
        .map(|_| connections.recv_timeout(TIMEOUT).unwrap())
        .collect();
    let mut late = connect();
    // A later request has been answered, so the connection would have been opened by now.
    assert_eq!(
        tunnel.connector.request(&json!({ "cmd": "version" }))["api"],
        2
    );
    assert!(connections.try_recv().is_err());
    // The first connection that closes makes room.
    drop((locals.remove(0), programs.remove(0)));
    let mut program = connections.recv_timeout(TIMEOUT).unwrap();
    program.read_exact(&mut [0]).unwrap();
    program.write_all(b"!").unwrap();
    late.read_exact(&mut [0]).unwrap();
    let stat = tunnel.stat_until(|stat| stat.forwards[0].connections == 257);
    assert_eq!(stat.refused.total(), 0, "{stat:?}");
}

#[test]
fn many_unfinished_handshakes_do_not_block_a_valid_source() {
    let mut listener = Listener::start(options("127.0.0.0/8"));
    let (_directory, path, connections) = keeping_program();
    let number = listener.forward(&path);
    let at = endpoint(&listener.opened);
    let mut unfinished: Vec<_> = (0..HALF_OPEN)
        .map(|_| TcpStream::connect(at).unwrap())
        .collect();
    listener.stat_until(|stat| stat.half_open == HALF_OPEN as u64);
    // Each new connection closes the oldest unfinished one.
    assert_eq!(connect_to_forward(&listener.opened, number).1, Some(0));
    connections.recv_timeout(TIMEOUT).unwrap();
    let stat = listener.stat_until(|stat| stat.half_open == HALF_OPEN as u64 - 1);
    assert_eq!(stat.refused.crowded, 1, "{stat:?}");
    let mut challenge = [0; 40];
    unfinished[0].read_exact(&mut challenge).unwrap();
    assert!(matches!(unfinished[0].read(&mut challenge), Ok(0) | Err(_)));
    let newest = unfinished.pop().unwrap();
    newest.set_nonblocking(true).unwrap();
    let mut newest = &newest;
    wait_until("the challenge of the newest connection", || {
        newest.read(&mut challenge).is_ok_and(|count| count == 40)
    });
    assert_eq!(
        newest.read(&mut challenge).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
}

#[test]
fn a_peer_with_many_unfinished_handshakes_closes_only_its_own() {
    let mut listener = Listener::start(options("127.0.0.0/8"));
    let (_directory, path, connections) = keeping_program();
    let number = listener.forward(&path);
    let at = endpoint(&listener.opened);
    // The source's handshake is the oldest one.
    let mut source = TcpStream::connect(at).unwrap();
    let flood: Vec<_> = (0..2 * HALF_OPEN)
        .map(|_| connect_from([127, 0, 0, 66], at))
        .collect();
    let stat = listener.stat_until(|stat| stat.connections == 1 + 2 * HALF_OPEN as u64);
    assert_eq!(stat.refused.crowded, 1 + HALF_OPEN as u64, "{stat:?}");
    let mut challenge = [0; 40];
    source.read_exact(&mut challenge).unwrap();
    let status = respond_to(&listener.opened, &mut source, &challenge, number);
    assert_eq!(status, Some(0));
    connections.recv_timeout(TIMEOUT).unwrap();
    drop(flood);
}

/// Connects from this address of the loopback network.
fn connect_from(address: [u8; 4], at: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&at.into()).unwrap();
    socket.into()
}

#[test]
fn a_source_that_sends_nothing_is_closed_at_the_handshake_limit() {
    let mut options = options("127.0.0.0/8");
    options["hello_timeout"] = json!(1);
    let mut listener = Listener::start(options);
    let silent = TcpStream::connect(endpoint(&listener.opened)).unwrap();
    silent.set_read_timeout(Some(TIMEOUT)).unwrap();
    let reader = thread::spawn(move || read_to_end(&silent).0.len());
    let stat = listener.stat_until(|stat| stat.refused.silent == 1);
    assert_eq!((stat.half_open, stat.refused.total()), (0, 1), "{stat:?}");
    // The source received only the challenge.
    assert_eq!(reader.join().unwrap(), 40);
}
