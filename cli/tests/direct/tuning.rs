//! The congestion control and the buffers of the sockets that carry guest data.

use serde_json::{Value, json};
use std::process::Command;
use testing::cable::{Cable, plane_request};
use testing::connector::{Connector, executable, with_default_signals};
use testing::listener::Listener;
use testing::namespace::in_namespace;
use testing::seam::{NegotiatedTunnel, Seam};
use testing::stream::exchange_bytes;

const PLANES: [&str; 2] = ["tls", "tcp"];

pub(crate) const MIB: u64 = 1 << 20;

/// The options of a TCP socket as `ss` reports them.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) congestion: String,
    pub(crate) send: u64,
    pub(crate) receive: u64,
}

impl Options {
    fn new(congestion: &str, send: u64, receive: u64) -> Self {
        Self {
            congestion: congestion.to_owned(),
            send,
            receive,
        }
    }
}

/// A setting of this namespace.
fn read_setting(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap()
}

/// Makes Reno the default of this namespace: every kernel has it and permits it everywhere.
fn use_reno() {
    std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno").unwrap();
}

/// The options of the connections of this namespace to or from this port, the newest one first. The
/// heartbeat is the oldest one.
pub(crate) fn sockets(port: &Value) -> Vec<Options> {
    let filter = format!("( sport = :{port} or dport = :{port} )");
    let output = Command::new("ss")
        .args(["-HtnimO", "state", "established", &filter])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(options).collect()
}

/// The options in a line. The congestion control precedes the scale of the windows, and `skmem` has the
/// buffers as `rb` and `tb`.
fn options(line: &str) -> Options {
    let words: Vec<&str> = line.split_whitespace().collect();
    let scale = words
        .iter()
        .position(|word| word.starts_with("wscale:"))
        .unwrap();
    let congestion = words[..scale]
        .iter()
        .rev()
        .find(|word| ["cubic", "bbr", "reno"].contains(word))
        .unwrap();
    let memory = line.split_once("skmem:(").unwrap().1;
    let buffer = |name: &str| {
        let values = memory.split([',', ')']);
        let value = values
            .into_iter()
            .find_map(|value| value.strip_prefix(name));
        value.unwrap().parse().unwrap()
    };
    Options::new(congestion, buffer("tb"), buffer("rb"))
}

/// The seam of the target at the other end of a link, whose listener has these options too.
fn seam_with(cable: &Cable, options: Value) -> Seam {
    let cable = cable.clone();
    Seam::with_listeners(move |mut all| {
        for (name, value) in options.as_object().unwrap() {
            all[name] = value.clone();
        }
        cable.on_target(move || Listener::start(all))
    })
}

/// The sockets of the source and of the target, after data has passed a connection.
fn after_data(cable: &Cable, tunnel: &mut NegotiatedTunnel) -> [Vec<Options>; 2] {
    let port = tunnel.answer["direct"]["port"].clone();
    let (source, target) = tunnel.pair();
    exchange_bytes(&source, &target);
    let at_target = {
        let port = port.clone();
        cable.on_target(move || sockets(&port))
    };
    [sockets(&port), at_target]
}

#[test]
fn each_end_applies_what_is_configured_to_its_own_sockets() {
    in_namespace(|| {
        let cable = Cable::new();
        cable.on_target(use_reno);
        for plane in PLANES {
            let options = json!({ "congestion": "bbr", "buffer": 4 * MIB });
            let seam = seam_with(&cable, options);
            let fields = json!({ "congestion": "cubic", "buffer": MIB });
            let mut tunnel =
                NegotiatedTunnel::on_plane(plane, seam, &plane_request(plane, &fields));
            let [source, target] = after_data(&cable, &mut tunnel);
            assert_eq!(source.len(), 2, "the connection and the heartbeat");
            let expected = Options::new("cubic", MIB, MIB);
            assert!(source.contains(&expected), "{plane}: {source:?}");
            let expected = Options::new("bbr", 4 * MIB, 4 * MIB);
            assert!(target.contains(&expected), "{plane}: {target:?}");

            let seam = tunnel.seam.clone();
            let (_, finished) = tunnel.finish();
            for line in [
                "connection 1: send buffer set to 1.0 MiB: it is configured",
                "connection 1: receive buffer set to 1.0 MiB: it is configured",
            ] {
                assert!(finished.log.contains(line), "{}", finished.log);
            }
            let (_, log) = seam.take_listener().end();
            let line = "connection 1: congestion control bbr in place of reno: it is configured";
            assert!(log.contains(line), "{log}");
        }
    });
}

#[test]
fn the_system_decides_by_default_on_a_local_network_and_always_if_that_is_configured() {
    in_namespace(|| {
        let cable = Cable::new();
        use_reno();
        cable.on_target(use_reno);
        let system = json!({ "congestion": "system", "buffer": "system" });
        for fields in [json!({}), system] {
            let seam = seam_with(&cable, fields.clone());
            let mut tunnel =
                NegotiatedTunnel::on_plane("tcp", seam, &plane_request("tcp", &fields));
            let ends = after_data(&cable, &mut tunnel);
            for end in &ends {
                let others = end
                    .iter()
                    .filter(|options| options.congestion != "reno" || options.send >= 4 * MIB);
                assert_eq!(others.count(), 0, "{ends:?}");
            }
            let seam = tunnel.seam.clone();
            let (_, finished) = tunnel.finish();
            for log in [finished.log, seam.take_listener().end().1] {
                for words in ["buffer set", "congestion control", "stay"] {
                    assert!(!log.contains(words), "{log}");
                }
            }
        }
    });
}

/// A connector without the capability to change the limits of its sockets.
fn without_capability() -> Connector {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_admin", "--"]);
    let program = with_default_signals(&executable());
    command.arg(program.get_program()).args(program.get_args());
    Connector::spawn(command.arg("connect"))
}

#[test]
fn a_connector_without_the_capability_logs_once_what_it_cannot_set() {
    in_namespace(|| {
        let cable = Cable::new();
        use_reno();
        let allowed = read_setting("tcp_allowed_congestion_control");
        // One of them is the system's default, which every user may select.
        let refused = ["cubic", "bbr"].into_iter();
        let mut refused =
            refused.filter(|name| !allowed.split_whitespace().any(|word| word == *name));
        let refused = refused.next_back().unwrap_or("system");
        let fields = json!({ "congestion": refused, "buffer": 4 * MIB });
        let request = plane_request("tcp", &fields);
        let mut tunnel =
            NegotiatedTunnel::negotiate_with(without_capability(), cable.seam(), &request);
        assert_eq!(tunnel.answer["plan"]["plane"], "tcp", "{}", tunnel.answer);
        let port = tunnel.answer["direct"]["port"].clone();
        for _ in 0..2 {
            let (source, target) = tunnel.pair();
            exchange_bytes(&source, &target);
        }
        for options in sockets(&port) {
            assert_eq!(options.congestion, "reno", "{options:?}");
            assert!(options.send < 4 * MIB, "{options:?}");
        }
        let (record, finished) = tunnel.finish();
        assert_eq!(record["failed"], 0, "{record}");
        let mut expected = vec![
            "connection 1: the buffers of its socket stay as the kernel sets them: larger ones need CAP_NET_ADMIN, which root has (".to_owned(),
        ];
        if refused != "system" {
            expected.push(format!(
                "connection 1: congestion control stays reno: {refused} would be used (it is configured), but selecting it needs CAP_NET_ADMIN, which root has ("
            ));
        }
        for line in &expected {
            assert_eq!(finished.log.matches(line).count(), 1, "{}", finished.log);
        }
        let lines = finished.log.matches(" stay").count();
        assert_eq!(lines, expected.len(), "{}", finished.log);
    });
}
