//! Dialling in a network namespace: addresses that drop packets, that no node has or that have no
//! route, and another address that works.

use serde_json::{Value, json};
use std::time::Duration;
use testing::cable::{
    self, Cable, SOURCE_ADDRESSES, TARGET_ADDRESSES, UNUSED_ADDRESSES, drop_packets_to,
    plane_request,
};
use testing::namespace::{in_namespace, run};
use testing::seam::{NegotiatedTunnel, Seam};

/// How long after its limit a dial and its clean-up have ended.
const SLACK: Duration = Duration::from_secs(2);

const PLANES: [&str; 2] = ["tls", "tcp"];

/// A seam that announces these addresses in place of those of its listener.
fn announcing(seam: Seam, addresses: &[&str]) -> Seam {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    seam.with_script(move |direct, ours| {
        let mut answer = ours();
        if direct["op"] == "open" {
            answer["direct"]["addresses"] = json!(addresses);
        }
        answer
    })
}

/// A dial that fails within its limit. Returns the message to the operator.
fn fail_to_dial(plane: &str, seam: &Seam, limit: Duration, fields: &Value) -> String {
    let mut request = plane_request(plane, fields);
    request["dial_timeout"] = json!(limit.as_secs());
    let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &request);
    assert!(tunnel.took < limit + SLACK, "{:?}", tunnel.took);
    assert_eq!(seam.received(), ["version", "hello", "open", "close"]);
    let (ended, _) = seam.take_listener().end();
    ended.unwrap();
    let answer = &tunnel.answer;
    if plane == "tcp" {
        assert_eq!(answer["success"], false, "{answer}");
        return answer["msg"].as_str().unwrap().to_owned();
    }
    assert_eq!(answer["plan"]["plane"], "websocket", "{answer}");
    let warnings = answer["plan"]["warnings"].as_array().unwrap().iter();
    let messages: Vec<&str> = warnings
        .map(|warning| warning.as_str().unwrap())
        .filter(|warning| !warning.starts_with("migration network"))
        .collect();
    assert_eq!(messages.len(), 1, "{answer}");
    messages[0].to_owned()
}

#[test]
fn a_dial_whose_packets_are_dropped_ends_at_the_limit() {
    in_namespace(|| {
        let cable = Cable::new();
        cable.cut();
        for plane in PLANES {
            let message = fail_to_dial(plane, &cable.seam(), Duration::from_secs(2), &json!({}));
            assert!(message.contains("10.77.0.2, port 60000"), "{message}");
            assert!(
                message.contains("Connection timed out (os error 110): no answer within 2s"),
                "{message}"
            );
        }
    });
}

#[test]
fn without_a_network_only_an_address_that_the_control_connection_has_reached_is_dialled() {
    in_namespace(|| {
        let cable = Cable::new();
        // A service of a third party, such as QEMU that waits for a migration inside its cluster.
        let service = cable.on_target(|| {
            let service = std::net::TcpListener::bind((TARGET_ADDRESSES[0], 60_000)).unwrap();
            service.set_nonblocking(true).unwrap();
            service
        });
        for plane in PLANES {
            let seam_cable = cable.clone();
            let seam = Seam::with_listeners(move |mut options| {
                options["network"] = json!("10.77.0.0/24");
                seam_cable.on_target(move || testing::listener::Listener::start(options))
            });
            let seam = announcing(seam, &TARGET_ADDRESSES[..1]);
            let none = json!({
                "migration_network": null, "network": null, "source_network": null,
            });
            let message = fail_to_dial(plane, &seam, Duration::from_secs(20), &none);
            for words in [
                "the target announces address 10.77.0.2, but its API was reached at 127.0.0.1",
                "' remote 127.0.0.1' and ' target 10.77.0.2/32'",
                "/etc/pve/remote-migration.cfg on this node",
            ] {
                assert!(message.contains(words), "{message}");
            }
        }
        let error = service.accept().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
    });
}

#[test]
fn an_address_that_no_node_has_is_reported_with_its_errno() {
    in_namespace(|| {
        let cable = Cable::new();
        for plane in PLANES {
            let seam = announcing(cable.seam(), &[UNUSED_ADDRESSES[0]]);
            let message = fail_to_dial(plane, &seam, Duration::from_secs(20), &json!({}));
            assert!(message.contains("10.77.0.9, port 60000"), "{message}");
            assert!(
                message.contains("No route to host (os error 113)"),
                "{message}"
            );
        }
    });
}

#[test]
fn a_route_that_refuses_packets_is_reported_with_its_errno() {
    in_namespace(|| {
        let cable = Cable::new();
        let wide = json!({
            "migration_network": "10.77.0.0/16", "network": "10.77.0.0/16",
            "source_network": "10.77.0.0/16",
        });
        for (kind, network, words) in [
            (
                "blackhole",
                "10.77.5.0/24",
                "Invalid argument (os error 22)",
            ),
            (
                "unreachable",
                "10.77.6.0/24",
                "No route to host (os error 113)",
            ),
            (
                "prohibit",
                "10.77.7.0/24",
                "Permission denied (os error 13)",
            ),
        ] {
            run(&format!("ip route add {kind} {network}"));
            let address = network.replace(".0/24", ".9");
            for plane in PLANES {
                let seam = announcing(cable.seam(), &[&address]);
                let message = fail_to_dial(plane, &seam, Duration::from_secs(20), &wide);
                assert!(message.contains(&address), "{message}");
                // Clear text is not dialled: the guard looks up the route first.
                if plane == "tls" {
                    assert!(
                        message.contains(&format!("{address}, port 60000")),
                        "{message}"
                    );
                    assert!(message.contains(words), "{message}");
                }
            }
        }
    });
}

#[test]
fn an_address_that_answers_is_used_long_before_the_limit_of_one_that_does_not() {
    // The limit is so long that a dial which waits for it is detected.
    let patient = json!({ "dial_timeout": 120 });
    let any = json!({
        "dial_timeout": 120, "configured": true, "migration_network": "site", "network": "site",
        "source_network": null,
    });
    in_namespace(move || {
        let cable = Cable::new();
        drop_packets_to(UNUSED_ADDRESSES);
        for (plane, listens, fields, announced, expected) in [
            (
                "tls",
                "10.77.0.0/24",
                &patient,
                &[UNUSED_ADDRESSES[0], TARGET_ADDRESSES[0]][..],
                TARGET_ADDRESSES[0],
            ),
            (
                "tcp",
                "10.77.0.0/24",
                &patient,
                &[UNUSED_ADDRESSES[0], TARGET_ADDRESSES[0]],
                TARGET_ADDRESSES[0],
            ),
            // Addresses of both families. Each family works once.
            (
                "tls",
                "10.77.0.0/24",
                &any,
                &[UNUSED_ADDRESSES[1], TARGET_ADDRESSES[0]],
                TARGET_ADDRESSES[0],
            ),
            (
                "tls",
                "fd77::/64",
                &any,
                &[UNUSED_ADDRESSES[0], TARGET_ADDRESSES[1]],
                TARGET_ADDRESSES[1],
            ),
            // The other family is tried before the remaining addresses of the first.
            (
                "tls",
                "fd77::/64",
                &any,
                &[
                    UNUSED_ADDRESSES[0],
                    "10.77.0.8",
                    "10.77.0.7",
                    TARGET_ADDRESSES[1],
                ],
                TARGET_ADDRESSES[1],
            ),
        ] {
            let listener_cable = cable.clone();
            let seam = Seam::with_listeners(move |mut options| {
                options["network"] = json!(listens);
                listener_cable.on_target(move || testing::listener::Listener::start(options))
            });
            let seam = announcing(seam, announced);
            let tunnel =
                NegotiatedTunnel::on_plane(plane, seam.clone(), &plane_request(plane, fields));
            assert_eq!(tunnel.answer["direct"]["address"], expected);
            assert_eq!(seam.operations(), ["hello", "open"]);
            assert!(tunnel.took < Duration::from_secs(40), "{:?}", tunnel.took);
        }
    });
}

#[test]
fn an_address_of_this_node_is_not_dialled() {
    in_namespace(|| {
        let cable = Cable::new();
        for plane in PLANES {
            let seam = announcing(cable.seam(), &[SOURCE_ADDRESSES[0]]);
            let message = fail_to_dial(plane, &seam, Duration::from_secs(20), &json!({}));
            assert!(message.contains("10.77.0.1"), "{message}");
            assert!(message.contains("of this node itself"), "{message}");
        }
    });
}

#[test]
fn both_planes_serve_both_families() {
    in_namespace(|| {
        let cable = Cable::new();
        for (network, address) in [
            ("10.77.0.0/24", cable::TARGET_ADDRESSES[0]),
            ("fd77::/64", cable::TARGET_ADDRESSES[1]),
        ] {
            for plane in PLANES {
                let fields = json!({
                    "migration_network": network, "network": network, "source_network": network,
                });
                let mut tunnel =
                    NegotiatedTunnel::on_plane(plane, cable.seam(), &plane_request(plane, &fields));
                assert_eq!(tunnel.answer["direct"]["address"], address);
                let (source, target) = tunnel.pair();
                for (mut from, to) in [(&source, &target), (&target, &source)] {
                    std::io::Write::write_all(&mut from, b"some bytes").unwrap();
                    from.shutdown(std::net::Shutdown::Write).unwrap();
                    let (data, end) = testing::read_to_end(to);
                    end.unwrap();
                    assert_eq!(data, b"some bytes");
                }
                let (record, _) = tunnel.finish();
                assert_eq!(record["failed"], 0, "{record}");
            }
        }
    });
}
