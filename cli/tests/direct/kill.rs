//! SIGKILL, at either end and at every moment: everybody hears of it, nobody takes it for an end,
//! and nothing is left behind.

use serde_json::json;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use testing::namespace::within;
use testing::seam::{Crossing, Seam, program, wish};
use testing::stream::{acquaint, cannot_go_on, hears, pushes, takes, when_pushing_failed};
use testing::{is_gone, pattern, read_out, role, signal, state, tcp_source, until};

const PLANES: [(&str, &str); 2] = [("secure", "tls"), ("insecure", "tcp")];

/// As much as makes every buffer on the way overflow.
const MUCH: usize = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Connector,
    Listener,
}

/// Each plane and each victim, in a network namespace where nobody else wants the port.
fn each(test: fn(Crossing, Victim)) {
    within(move || {
        for (kind, plane) in PLANES {
            for victim in [Victim::Connector, Victim::Listener] {
                let seam = Seam::starting(role::listeners());
                test(Crossing::on(plane, seam, &wish(kind)), victim);
            }
        }
    });
}

fn endpoint(crossing: &Crossing) -> SocketAddr {
    tcp_source::endpoint(
        &crossing
            .seam
            .listener
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .opened,
    )
}

fn listener_pid(crossing: &Crossing) -> u32 {
    crossing
        .seam
        .listener
        .lock()
        .unwrap()
        .as_ref()
        .unwrap()
        .pid()
}

fn kill(crossing: &mut Crossing, victim: Victim) {
    match victim {
        Victim::Connector => crossing.connector.child.kill().unwrap(),
        Victim::Listener => signal("KILL", listener_pid(crossing)),
    }
}

/// The one that lives has not been disturbed, says what died, and ends well. Nothing is left.
fn aftermath(mut crossing: Crossing, victim: Victim, failed: u64) {
    let endpoint = endpoint(&crossing);
    match victim {
        Victim::Connector => {
            let directory = crossing.connector.directory.path().to_owned();
            let ended = crossing.connector.child.wait().unwrap();
            assert!(!ended.success());
            // Nobody is there to remove them, and nobody answers at them.
            for entry in std::fs::read_dir(directory).unwrap() {
                UnixStream::connect(entry.unwrap().path()).unwrap_err();
            }
            let quiet = crossing.stat_until(|stat| {
                stat.half_open == 0 && stat.forwards.iter().all(|forward| forward.open == 0)
            });
            let all: u64 = quiet.forwards.iter().map(|forward| forward.failed).sum();
            assert_eq!(all, failed, "{quiet:?}");
            let mut listener = crossing.seam.take_listener();
            listener.ask(&json!({ "op": "close" }));
            let (ended, log) = listener.wait();
            assert!(ended.success(), "{log}");
            assert_eq!(log.matches("FAILED: ").count() as u64, failed, "{log}");
        }
        Victim::Listener => {
            let forward = crossing.connector.directory.path().join("0.sock");
            let late = UnixStream::connect(forward).unwrap();
            assert!(read_out(&late).1.is_err());
            let version = crossing.connector.ask(&json!({ "cmd": "version" }));
            assert_eq!(version["api"], 2);
            let (ended, _) = crossing.seam.take_listener().wait();
            assert!(!ended.success());
            let (_, finished) = crossing.finish();
            let log = finished.log;
            assert!(finished.status.success(), "{log}");
            assert_eq!(finished.files, 0);
            let dead = format!("the target's listener at {endpoint} is dead: ");
            assert!(log.contains(&dead), "{log}");
            assert_eq!(log.matches("FAILED: ").count() as u64, failed, "{log}");
        }
    }
    // At once, and not only when TCP has forgotten the connections.
    TcpListener::bind(endpoint).unwrap();
}

#[test]
fn at_the_hello() {
    each(|mut crossing, victim| {
        let (taken, takes_one) = mpsc::channel();
        let path = program(crossing.directory.path(), move |stream| {
            let _ = taken.send(stream);
        });
        let remote = path.to_str().unwrap();
        let forward = crossing.connector.forward(&crossing.target, remote);
        let port = endpoint(&crossing).port();
        let watch = connections(port);
        // The kernel takes connections for it, and it says nothing.
        let listener = listener_pid(&crossing);
        signal("STOP", listener);
        until("it stands still", || state(listener) == Some('T'));
        let mut local = UnixStream::connect(forward).unwrap();
        local.write_all(b"is anybody there?").unwrap();
        until("a second connection", || connections(port) > watch);
        kill(&mut crossing, victim);
        if victim == Victim::Connector {
            signal("CONT", listener);
        }
        hears(takes(&local).1);
        if victim == Victim::Connector {
            let stat = crossing.stat_until(|stat| stat.refused.total() == 1);
            assert_eq!(stat.refused.tls + stat.refused.malformed, 1, "{stat:?}");
        }
        assert!(
            takes_one.try_recv().is_err(),
            "the program got a connection"
        );
        aftermath(crossing, victim, 0);
    });
}

/// Established connections of this namespace from that port.
fn connections(port: u16) -> usize {
    // /proc/net/tcp (man 5 proc): number, local address, remote address, state.
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&local) && row[3] == "01")
        .count()
}

#[test]
fn mid_stream() {
    each(|mut crossing, victim| {
        let (busy, idle) = (crossing.pair(), crossing.pair());
        acquaint(&busy.0, &busy.1);
        acquaint(&idle.0, &idle.1);
        let busy = [busy.0, busy.1].map(|end| (pushes(&end), takes(&end)));
        let waiting = [idle.0, idle.1].map(|end| takes(&end).1);
        for (_, (count, _)) in &busy {
            until("data moves", || count.load(Ordering::Relaxed) > MUCH);
        }
        kill(&mut crossing, victim);
        for (pushing, (_, taking)) in busy {
            cannot_go_on(pushing, taking);
        }
        for taking in waiting {
            hears(taking);
        }
        aftermath(crossing, victim, 2);
    });
}

#[test]
fn at_the_end() {
    each(|mut crossing, victim| {
        let (mut source, target) = crossing.pair();
        source.write_all(&pattern(MUCH / 16)).unwrap();
        source.shutdown(Shutdown::Write).unwrap();
        let (data, end) = read_out(&target);
        end.unwrap();
        assert_eq!(data.len(), MUCH / 16);
        // All is there. That the target has it, the source has not heard.
        kill(&mut crossing, victim);
        hears(takes(&source).1);
        when_pushing_failed(pushes(&target));
        aftermath(crossing, victim, 1);
    });
}

/// A worker that is killed, while another child of its own holds its end of the listener's line.
#[test]
fn a_listener_ends_with_its_worker() {
    within(|| {
        for (kind, plane) in PLANES {
            let seam = Seam::starting(role::start_worker);
            let mut crossing = Crossing::on(plane, seam, &wish(kind));
            let (busy, idle) = (crossing.pair(), crossing.pair());
            acquaint(&busy.0, &busy.1);
            acquaint(&idle.0, &idle.1);
            let busy = [busy.0, busy.1].map(|end| (pushes(&end), takes(&end)));
            let waiting = [idle.0, idle.1].map(|end| takes(&end).1);
            for (_, (count, _)) in &busy {
                until("data moves", || count.load(Ordering::Relaxed) > MUCH);
            }
            let (endpoint, worker) = (endpoint(&crossing), listener_pid(&crossing));
            let worker_and_listener = crossing.seam.take_listener();
            let pid = |name: &str| {
                u32::try_from(worker_and_listener.opened[name].as_u64().unwrap()).unwrap()
            };
            let (listener, other) = (pid("listener"), pid("other"));
            assert!(!is_gone(listener));

            signal("KILL", worker);
            until("the listener ends", || is_gone(listener));
            TcpListener::bind(endpoint).unwrap();
            for (pushing, (_, taking)) in busy {
                cannot_go_on(pushing, taking);
            }
            for taking in waiting {
                hears(taking);
            }
            assert!(!is_gone(other), "the line was held all the time");
            signal("KILL", other);
            let (_, log) = worker_and_listener.wait();
            assert!(log.contains("listener: ended by SIGTERM"), "{log}");
        }
    });
}
