//! Dialling over a network of this test's own: what drops packets, what nobody has, what leads
//! nowhere, and the address beside it that works.

use serde_json::{Value, json};
use std::time::Duration;
use testing::cable::{
    self, Cable, SOURCE_ADDRESSES, TARGET_ADDRESSES, UNUSED_ADDRESSES, drop_packets_to,
    plane_request,
};
use testing::namespace::{in_namespace, run};
use testing::seam::{NegotiatedTunnel, Seam};

/// How long after its limit a dial is over, with all that belongs to it.
const SLACK: Duration = Duration::from_secs(2);

const PLANES: [&str; 2] = ["tls", "tcp"];

/// A seam whose listener is said to be at these addresses, besides or in place of its own.
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

/// A dial that fails within its limit; what the operator is told.
fn failing(plane: &str, seam: &Seam, limit: Duration, fields: &Value) -> String {
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
    let told: Vec<&str> = warnings
        .map(|warning| warning.as_str().unwrap())
        .filter(|warning| !warning.starts_with("migration network"))
        .collect();
    assert_eq!(told.len(), 1, "{answer}");
    told[0].to_owned()
}

#[test]
fn a_port_whose_packets_are_dropped_is_waited_for_no_longer_than_the_limit() {
    in_namespace(|| {
        let cable = Cable::new();
        cable.cut();
        for plane in PLANES {
            let told = failing(plane, &cable.seam(), Duration::from_secs(2), &json!({}));
            assert!(told.contains("10.77.0.2, port 60000"), "{told}");
            assert!(
                told.contains("Connection timed out (os error 110): no answer within 2s"),
                "{told}"
            );
        }
    });
}

#[test]
fn without_a_network_there_is_exactly_one_warning() {
    in_namespace(|| {
        let cable = Cable::new();
        cable.cut();
        let cable_of_seam = cable.clone();
        let seam = Seam::with_listeners(move |mut options| {
            // As if the node's name stood for that address.
            options["network"] = json!("10.77.0.0/24");
            cable_of_seam.on_target(move || testing::listener::Listener::start(options))
        });
        let request = json!({
            "migration_type": "secure", "planes": ["tls", "tcp"], "dial_timeout": 1,
        });
        let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &request);
        let warnings = tunnel.answer["plan"]["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let warning = warnings[0].as_str().unwrap();
        assert!(
            warning.contains("10.77.0.2, port 60000") && warning.contains("(os error 110)"),
            "{warning}"
        );
        assert_eq!(seam.received(), ["version", "hello", "open", "close"]);
    });
}

#[test]
fn an_address_that_nobody_has_is_told_by_its_errno() {
    in_namespace(|| {
        let cable = Cable::new();
        for plane in PLANES {
            let seam = announcing(cable.seam(), &[UNUSED_ADDRESSES[0]]);
            let told = failing(plane, &seam, Duration::from_secs(20), &json!({}));
            assert!(told.contains("10.77.0.9, port 60000"), "{told}");
            assert!(told.contains("No route to host (os error 113)"), "{told}");
        }
    });
}

#[test]
fn a_route_that_leads_nowhere_is_told_by_its_errno() {
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
                let told = failing(plane, &seam, Duration::from_secs(20), &wide);
                assert!(told.contains(&address), "{told}");
                // Clear text is not even dialled: the guard asks for the way first.
                if plane == "tls" {
                    assert!(told.contains(&format!("{address}, port 60000")), "{told}");
                    assert!(told.contains(words), "{told}");
                }
            }
        }
    });
}

#[test]
fn the_address_beside_one_that_does_not_answer_is_taken_long_before_the_limit() {
    // The limit is so far away that whoever waits for it is seen to.
    let patient = json!({ "dial_timeout": 120 });
    let any = json!({
        "dial_timeout": 120, "migration_network": null, "network": null, "source_network": null,
    });
    in_namespace(move || {
        let cable = Cable::new();
        drop_packets_to(UNUSED_ADDRESSES);
        for (plane, listens, fields, announced, taken) in [
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
            // Of both families, each of them once the one that works.
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
            // The other family is tried before the rest of the first one's.
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
            let there = cable.clone();
            let seam = Seam::with_listeners(move |mut options| {
                options["network"] = json!(listens);
                there.on_target(move || testing::listener::Listener::start(options))
            });
            let seam = announcing(seam, announced);
            let tunnel =
                NegotiatedTunnel::on_plane(plane, seam.clone(), &plane_request(plane, fields));
            assert_eq!(tunnel.answer["direct"]["address"], taken);
            assert_eq!(seam.operations(), ["hello", "open"]);
            assert!(tunnel.took < Duration::from_secs(40), "{:?}", tunnel.took);
        }
    });
}

#[test]
fn clear_text_goes_to_no_address_of_this_node() {
    in_namespace(|| {
        let cable = Cable::new();
        let seam = announcing(cable.seam(), &[SOURCE_ADDRESSES[0]]);
        let told = failing("tcp", &seam, Duration::from_secs(20), &json!({}));
        assert!(told.contains("10.77.0.1"), "{told}");
        assert!(told.contains("of this node itself"), "{told}");
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
                    std::io::Write::write_all(&mut from, b"over there").unwrap();
                    from.shutdown(std::net::Shutdown::Write).unwrap();
                    let (data, end) = testing::read_to_end(to);
                    end.unwrap();
                    assert_eq!(data, b"over there");
                }
                let (record, _) = tunnel.finish();
                assert_eq!(record["failed"], 0, "{record}");
            }
        }
    });
}
