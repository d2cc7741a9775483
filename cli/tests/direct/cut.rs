//! A cable that is cut: nothing comes any more, and nobody says so. Two network namespaces, the
//! source in the one, the listener in the other.

use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
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

/// How long after its limit a dead node may be found on a busy machine.
const SLACK: Duration = Duration::from_secs(8);

/// Far longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// As much as makes every buffer on the way overflow.
const MUCH: usize = 32 << 20;

fn each_plane(test: fn(&str, &Cable)) {
    let planes = ["tls", "tcp"]
        .map(|plane| thread::spawn(move || in_namespace(move || test(plane, &Cable::new()))));
    for plane in planes {
        plane.join().unwrap();
    }
}

#[test]
fn every_connection_fails_within_the_limit_whatever_it_is_doing() {
    const LIMIT: Duration = Duration::from_secs(3);
    each_plane(|plane, cable| {
        let mut tunnel = cable.tunnel(plane, LIMIT.as_secs());
        let (busy, idle, stalled, mute) =
            (tunnel.pair(), tunnel.pair(), tunnel.pair(), tunnel.pair());
        for pair in [&busy, &idle, &stalled] {
            exchange_bytes(&pair.0, &pair.1);
        }
        // Mid-stream, both ways.
        let busy = [busy.0, busy.1].map(|end| (write_until_failure(&end), read_until_end(&end)));
        // Nothing moves, but its source waits for an answer, and its target for a question.
        let waiting = [idle.0, idle.1].map(|end| read_until_end(&end).1);
        // More than anybody takes.
        let blocked = (
            write_until_failure(&stalled.0),
            read_until_end(&stalled.0).1,
        );
        // A program that only reads: the kernel has no error for it.
        let (mut asks, mut silent) = mute;
        asks.write_all(b"all that there is").unwrap();
        silent.read_exact(&mut [0; 17]).unwrap();
        for (_, (count, _)) in &busy {
            wait_until("data moves", || count.load(Ordering::Relaxed) > MUCH);
        }

        cable.cut();
        let cut = Instant::now();
        let mut ends: Vec<Instant> = waiting.map(expect_reset).into();
        ends.extend(busy.map(|(pushing, (_, taking))| expect_both_fail(pushing, taking)));
        ends.push(expect_both_fail(blocked.0, blocked.1));
        ends.push(expect_reset(read_until_end(&asks).1));
        for end in ends {
            let took = end - cut;
            assert!(
                took > LIMIT / 2 && took < LIMIT + SLACK,
                "{plane}: {took:?}"
            );
        }

        // The listener has found out by itself.
        let stat =
            tunnel.stat_until(|stat| stat.forwards.iter().all(|forward| forward.failed == 1));
        assert_eq!(stat.forwards.len(), 4);
        // What had arrived is read, and then there is no end.
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

        // And nobody is let wait for a node that is dead.
        let late = tunnel.connector.open(&tunnel.target, "/run/late");
        assert!(read_to_end(&late).1.is_err());
        let told = log_of_both(tunnel, 5);
        for (log, words) in told.iter().zip([
            "the target's listener at 10.77.0.2:60000 is dead: no heartbeat received for 3s",
            "the source is dead: no heartbeat received for 3s",
        ]) {
            assert!(log.contains(words), "{log}");
            assert_eq!(log.matches("FAILED: ").count(), 4, "{log}");
        }
    });
}

/// The record says that so many connections failed; what connector and listener have logged.
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
    each_plane(|plane, cable| {
        let mut tunnel = cable.tunnel(plane, LIMIT.as_secs());
        let (source, target) = tunnel.pair();
        let writer = thread::spawn(move || {
            (&source).write_all(&pattern(MUCH)).unwrap();
            source.shutdown(Shutdown::Write).unwrap();
            read_to_end(&source)
        });
        // Longer than the limit is what this is about.
        sleep(LIMIT * 2 + LIMIT / 2);
        let (data, end) = read_to_end(&target);
        end.unwrap();
        assert!(data == pattern(MUCH), "{} bytes", data.len());
        drop(target);
        writer.join().unwrap().1.unwrap();
        for log in log_of_both(tunnel, 0) {
            assert!(!log.contains("dead") && !log.contains("FAILED"), "{log}");
        }
    });
}

#[test]
fn a_cut_that_is_shorter_than_the_limit_heals() {
    each_plane(|plane, cable| {
        // TCP repeats what is lost after ever longer waits: after a cut it may rest for as long
        // again.
        let mut tunnel = cable.tunnel(plane, 12);
        let (source, target) = tunnel.pair();
        let idle = tunnel.pair();
        exchange_bytes(&idle.0, &idle.1);
        let ways = [
            (source.try_clone().unwrap(), target.try_clone().unwrap()),
            (target, source),
        ];
        let ways = ways.map(|(from, to)| {
            let writer = thread::spawn(move || {
                (&from).write_all(&pattern(MUCH)).unwrap();
                from.shutdown(Shutdown::Write).unwrap();
            });
            let (half_way, is_half_way) = mpsc::channel();
            let (go_on, may_go_on) = mpsc::channel::<()>();
            let reader = thread::spawn(move || {
                let mut data = vec![0; MUCH / 2];
                (&to).read_exact(&mut data).unwrap();
                half_way.send(()).unwrap();
                may_go_on.recv().unwrap();
                let (rest, end) = read_to_end(&to);
                data.extend(rest);
                (data, end)
            });
            (is_half_way, go_on, writer, reader)
        });
        for (is_half_way, ..) in &ways {
            is_half_way.recv().unwrap();
        }
        // What is left is more than all buffers hold: it is on the wire, or waits for it.
        cable.cut();
        for (_, go_on, ..) in &ways {
            go_on.send(()).unwrap();
        }
        sleep(Duration::from_secs(1));
        cable.restore();
        for (_, _, writer, reader) in ways {
            writer.join().unwrap();
            let (data, end) = reader.join().unwrap();
            end.unwrap();
            assert!(data == pattern(MUCH), "{plane}: {} bytes", data.len());
        }
        exchange_bytes(&idle.0, &idle.1);
        drop(idle);
        for log in log_of_both(tunnel, 0) {
            assert!(!log.contains("dead") && !log.contains("FAILED"), "{log}");
        }
    });
}

/// An API of the target on the other node.
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
        let (moves, moved) = mpsc::channel();
        let moves = Mutex::new(moves);
        let far = api_on(&cable, move |request| match request.socket() {
            "/run/greets" => {
                let mut websocket = request.websocket();
                websocket.send(Message::binary("!")).unwrap();
                while websocket.read().is_ok() {}
            }
            // Takes everything.
            _ => {
                let mut tls = request.accept();
                tls.read_exact(&mut vec![0; MUCH]).unwrap();
                moves.lock().unwrap().send(()).unwrap();
                drop(read_to_end(tls));
            }
        });
        let mut connector = connector(LIMIT.as_secs());
        connector.connect(&near);
        assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
        let mut idle = connector.open(&far, "/run/greets");
        idle.read_exact(&mut [0]).unwrap();
        idle.write_all(b"!").unwrap();
        let busy = connector.open(&far, "/run/sink");
        let waiting = read_until_end(&idle).1;
        let (pushing, taking) = (write_until_failure(&busy), read_until_end(&busy).1);
        moved.recv_timeout(TIMEOUT).unwrap();

        cable.cut();
        let cut = Instant::now();
        for end in [expect_reset(waiting), expect_both_fail(pushing, taking)] {
            let took = end - cut;
            assert!(took > LIMIT / 2 && took < LIMIT + SLACK, "{took:?}");
        }
        // The control connection took another way.
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
