//! A link that drops every packet without an error. The source and the listener are in different
//! network namespaces.

use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, mpsc};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use testing::cable::{self, Cable, ip};
use testing::connector::Connector;
use testing::namespace::in_namespace;
use testing::seam::NegotiatedTunnel;
use testing::stream::{
    exchange_bytes, expect_both_fail, expect_reset, read_until_end, write_until_failure,
};
use testing::target::{Identity, Request, Target, serve_worker, stock_answer};
use testing::{pattern, read_to_end, role, wait_until};
use tungstenite::Message;

/// How long after its limit a dead node may be detected on a busy machine.
const SLACK: Duration = Duration::from_secs(8);

/// The dead-peer limit of tunnels whose connections fail.
const LIMIT: Duration = Duration::from_secs(3);

/// Much longer than any step of a test takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// More bytes than all buffers in the path hold.
const LENGTH: usize = 32 << 20;

fn for_each_plane(test: fn(&str, &Cable)) {
    let planes = ["tls", "tcp"]
        .map(|plane| thread::spawn(move || in_namespace(move || test(plane, &Cable::new()))));
    for plane in planes {
        plane.join().unwrap();
    }
}

#[test]
fn every_connection_fails_within_the_limit_in_each_state() {
    for_each_plane(|plane, cable| {
        for lanes in [1, 2] {
            fail_every_connection(
                cable.tunnel_with_lanes(plane, LIMIT.as_secs(), lanes),
                plane,
                cable,
            );
            cable.restore();
        }
    });
}

fn fail_every_connection(mut tunnel: NegotiatedTunnel, plane: &str, cable: &Cable) {
    let (busy, idle, stalled, mute) = (tunnel.pair(), tunnel.pair(), tunnel.pair(), tunnel.pair());
    for pair in [&busy, &idle, &stalled] {
        exchange_bytes(&pair.0, &pair.1);
    }
    // Transfers in both directions.
    let busy = [busy.0, busy.1].map(|end| (write_until_failure(&end), read_until_end(&end)));
    // Both programs of the idle connection wait for data.
    let waiting = [idle.0, idle.1].map(|end| read_until_end(&end).1);
    // More data than the target's program reads.
    let blocked = (
        write_until_failure(&stalled.0),
        read_until_end(&stalled.0).1,
    );
    // A program that has only read: the kernel cannot report an error to it.
    let (mut writer, mut silent) = mute;
    writer.write_all(b"data before a cut").unwrap();
    silent.read_exact(&mut [0; 17]).unwrap();
    for (_, (count, _)) in &busy {
        wait_until("data moves", || count.load(Ordering::Relaxed) > LENGTH);
    }

    cable.cut();
    let cut = Instant::now();
    let mut ends: Vec<Instant> = waiting.map(expect_reset).into();
    ends.extend(busy.map(|(writer, (_, reader))| expect_both_fail(writer, reader)));
    ends.push(expect_both_fail(blocked.0, blocked.1));
    ends.push(expect_reset(read_until_end(&writer).1));
    for end in ends {
        let took = end - cut;
        assert!(
            took > LIMIT / 2 && took < LIMIT + SLACK,
            "{plane}: {took:?}"
        );
    }

    // The listener detects the dead source independently.
    let stat = tunnel.stat_until(|stat| stat.forwards.iter().all(|forward| forward.failed == 1));
    assert_eq!(stat.forwards.len(), 4);
    // The data that had arrived is read, and an error follows it.
    expect_reset(read_until_end(&stalled.1).1);
    silent.set_nonblocking(true).unwrap();
    assert_eq!(
        silent.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    silent.set_nonblocking(false).unwrap();
    silent.write_all(b"?").unwrap();
    assert_eq!(
        silent.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );

    // A new connection to a dead node fails without waiting.
    let late = tunnel.connector.open(&tunnel.target, "/run/late");
    assert!(read_to_end(&late).1.is_err());
    let logs = log_of_both(tunnel, 5);
    for (log, expected) in logs.iter().zip([
        "the target's listener at 10.77.0.2:60000 is dead: no heartbeat received for 3s",
        "the source is dead: no heartbeat received for 3s",
    ]) {
        assert!(log.contains(expected), "{log}");
        assert_eq!(log.matches("FAILED: ").count(), 4, "{log}");
    }
}

/// Requires this number of failed connections in the record. Returns the logs of connector and
/// listener.
fn log_of_both(tunnel: NegotiatedTunnel, failed: u64) -> [String; 2] {
    let seam = tunnel.seam.clone();
    let (record, finished) = tunnel.finish();
    assert_eq!(record["failed"], failed, "{record}");
    assert_eq!(finished.files, 0);
    let (ended, log) = seam.take_listener().end();
    ended.unwrap();
    [finished.log, log]
}

#[test]
fn a_reader_that_stalls_for_longer_than_the_limit_is_not_dead() {
    const LIMIT: Duration = Duration::from_secs(3);
    for_each_plane(|plane, cable| {
        let mut tunnel = cable.tunnel(plane, LIMIT.as_secs());
        let (source, target) = tunnel.pair();
        let writer = thread::spawn(move || {
            (&source).write_all(&pattern(LENGTH)).unwrap();
            source.shutdown(Shutdown::Write).unwrap();
            read_to_end(&source)
        });
        // This does not wait for an event: the reader stalls for longer than the limit.
        sleep(LIMIT * 2 + LIMIT / 2);
        let (data, end) = read_to_end(&target);
        end.unwrap();
        assert!(data == pattern(LENGTH), "{} bytes", data.len());
        drop(target);
        writer.join().unwrap().1.unwrap();
        for log in log_of_both(tunnel, 0) {
            assert!(!log.contains("dead") && !log.contains("FAILED"), "{log}");
        }
    });
}

/// Transfers data in both directions. `happens` is called when half of it has arrived and the readers
/// have stopped, and continues them. The rest has to be more than all buffers hold.
fn transfer_while(
    length: usize,
    source: UnixStream,
    target: UnixStream,
    happens: impl FnOnce(&dyn Fn()),
) {
    let directions = [
        (source.try_clone().unwrap(), target.try_clone().unwrap()),
        (target, source),
    ];
    let directions = directions.map(|(from, to)| {
        let writer = thread::spawn(move || {
            (&from).write_all(&pattern(length)).unwrap();
            from.shutdown(Shutdown::Write).unwrap();
        });
        let (half_way, is_half_way) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let reader = thread::spawn(move || {
            let mut data = vec![0; length / 2];
            (&to).read_exact(&mut data).unwrap();
            half_way.send(()).unwrap();
            may_go_on.recv().unwrap();
            let (rest, end) = read_to_end(&to);
            data.extend(rest);
            (data, end)
        });
        (is_half_way, go_on, writer, reader)
    });
    for (is_half_way, ..) in &directions {
        is_half_way.recv().unwrap();
    }
    happens(&|| {
        for (_, go_on, ..) in &directions {
            go_on.send(()).unwrap();
        }
    });
    for (_, _, writer, reader) in directions {
        writer.join().unwrap();
        let (data, end) = reader.join().unwrap();
        end.unwrap();
        assert!(data == pattern(length), "{} bytes", data.len());
    }
}

/// As behind a router whose translation of addresses forgets its connections: what is sent on them is
/// lost without an error, and new ones come from another address. Connections in clear text stay at the
/// address that was checked.
#[test]
fn a_stream_with_lanes_continues_from_another_address() {
    in_namespace(|| {
        let cable = Cable::new();
        let mut tunnel = cable.tunnel_with_lanes("tls", 12, 2);
        let (source, target) = tunnel.pair();
        // Each end keeps up to 16 MiB of a stream with lanes.
        transfer_while(4 * LENGTH, source, target, |continue_reading| {
            cable.change_source_address();
            continue_reading();
        });
        let (record, ended) = tunnel.finish();
        assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
        let reopened = record["lanes"]["reopened"].as_u64();
        assert!(reopened > Some(0), "{record}\n{}", ended.log);
    });
}

#[test]
fn a_cut_that_is_shorter_than_the_limit_heals() {
    for_each_plane(|plane, cable| {
        // TCP doubles the time between retransmissions: after a cut it may wait for as long as the
        // cut lasted.
        let mut tunnel = cable.tunnel(plane, 12);
        let (source, target) = tunnel.pair();
        let idle = tunnel.pair();
        exchange_bytes(&idle.0, &idle.1);
        transfer_while(LENGTH, source, target, |continue_reading| {
            cable.cut();
            continue_reading();
            sleep(Duration::from_secs(1));
            cable.restore();
        });
        exchange_bytes(&idle.0, &idle.1);
        drop(idle);
        for log in log_of_both(tunnel, 0) {
            assert!(!log.contains("dead") && !log.contains("FAILED"), "{log}");
        }
    });
}

/// The target's API on the target node of the link.
fn api_on(cable: &Cable, script: impl Fn(Request) + Send + Sync + 'static) -> Target {
    cable.on_target(move || {
        Target::at(
            ip(cable::TARGET_ADDRESSES[0]),
            &Identity::new(),
            rustls::ALL_VERSIONS,
            script,
        )
    })
}

/// A connector with this dead-peer limit, in seconds.
fn connector(limit: u64) -> Connector {
    Connector::spawn(&mut role::connector_command(
        &json!({ "dead_peer_timeout": limit }),
    ))
}

#[test]
fn a_websocket_fails_within_the_limit_too() {
    const LIMIT: Duration = Duration::from_secs(3);
    in_namespace(|| {
        let cable = Cable::new();
        let near = Target::new(|request| serve_worker(request, stock_answer));
        let (transferred, transfer) = mpsc::channel();
        let transferred = Mutex::new(transferred);
        let far = api_on(&cable, move |request| match request.socket() {
            "/run/greeting" => {
                let mut websocket = request.websocket();
                websocket.send(Message::binary("!")).unwrap();
                while websocket.read().is_ok() {}
            }
            // Reads everything.
            _ => {
                let mut tls = request.accept();
                tls.read_exact(&mut vec![0; LENGTH]).unwrap();
                transferred.lock().unwrap().send(()).unwrap();
                drop(read_to_end(tls));
            }
        });
        let mut connector = connector(LIMIT.as_secs());
        connector.connect(&near);
        assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
        let mut idle = connector.open(&far, "/run/greeting");
        idle.read_exact(&mut [0]).unwrap();
        idle.write_all(b"!").unwrap();
        let busy = connector.open(&far, "/run/sink");
        let waiting = read_until_end(&idle).1;
        let (writer, reader) = (write_until_failure(&busy), read_until_end(&busy).1);
        transfer.recv_timeout(TIMEOUT).unwrap();

        cable.cut();
        let cut = Instant::now();
        for end in [expect_reset(waiting), expect_both_fail(writer, reader)] {
            let took = end - cut;
            assert!(took > LIMIT / 2 && took < LIMIT + SLACK, "{took:?}");
        }
        // The control connection does not use the link.
        assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
        let log = connector.finish().log;
        assert_eq!(log.matches("FAILED: ").count(), 2, "{log}");
        assert_eq!(log.matches("timed out").count(), 2, "{log}");
    });
}

#[test]
fn a_control_connection_that_is_cut_ends_everything() {
    const LIMIT: Duration = Duration::from_secs(3);
    in_namespace(|| {
        let cable = Cable::new();
        let far = api_on(&cable, |request| match request.socket() {
            "/run/mtunnel" => serve_worker(request, stock_answer),
            _ => drop(read_to_end(request.accept())),
        });
        let mut connector = connector(LIMIT.as_secs());
        connector.connect(&far);
        assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
        let mut local = connector.open(&far, "/run/sink");
        local.write_all(b"something").unwrap();

        cable.cut();
        let cut = Instant::now();
        let finished = connector.wait();
        let took = cut.elapsed();
        assert!(took > LIMIT / 2 && took < LIMIT + SLACK, "{took:?}");
        assert!(!finished.status.success());
        assert_eq!(finished.files, 0);
        let log = finished.log;
        assert!(
            log.contains("the control connection failed: ") && log.contains("timed out"),
            "{log}"
        );
        assert_eq!(
            read_to_end(&local).1.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    });
}
