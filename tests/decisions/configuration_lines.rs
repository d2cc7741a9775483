//! Where each value of a migration comes from: the line of `/etc/pve/remote-migration.cfg`, or the
//! default.

use pve_tunnel::configuration::{Configuration, Origin, select_source, settings};

const FILE: &str = "\
# Between our two sites.
network: dc2
\tremote 192.0.2.7
\tsource 10.0.0.0/24

\t# A comment does not end a section.
network: clear
\tremote 192.0.2.8
\tallow insecure
\ttarget dc1
\tdead-peer-timeout 30
\tbuffer 32M
\tcongestion bbr
\tpublic yes

policy: cluster
\trequire-encryption 0
";

/// Each setting as `key=value@line`, and without `@line` if it is the default.
fn explained(file: &str, remote: &str, network: Option<&str>) -> Vec<String> {
    let (configuration, lines) = Configuration::parse_with_lines(file.as_bytes()).unwrap();
    let selection = select_source(&configuration, remote, None, network).unwrap();
    let settings = settings(&selection, &lines);
    settings
        .into_iter()
        .map(|setting| {
            let value = setting.value.as_deref().unwrap_or("-");
            match setting.origin {
                Origin::Default => format!("{}={value}", setting.key),
                Origin::File { section, line } => {
                    format!("{}={value}@{section}:{line}", setting.key)
                }
            }
        })
        .collect()
}

#[test]
fn each_value_has_its_line_or_is_the_default() {
    assert_eq!(
        explained(FILE, "192.0.2.7", None),
        [
            "default=secure",
            "require-encryption=0@cluster:17",
            "source=10.0.0.0/24@dc2:4",
            "target=-",
            "public=0",
            "gateway=0",
            "dead-peer-timeout=60",
            "congestion=auto",
            "buffer=auto",
            "lanes=-",
            "threads=-",
            "compression=none",
        ]
    );
    // The type is the only one that the network allows, so its line is that of 'allow'.
    let clear = [
        "default=insecure@clear:9",
        "require-encryption=0@cluster:17",
        "source=-",
        "target=dc1@clear:10",
        "public=1@clear:14",
        "gateway=0",
        "dead-peer-timeout=30@clear:11",
        "congestion=bbr@clear:13",
        "buffer=32M@clear:12",
        "lanes=-",
        "threads=-",
        "compression=none",
    ];
    assert_eq!(explained(FILE, "192.0.2.8", None), clear);
    assert_eq!(explained(FILE, "192.0.2.8", Some("clear")), clear);
}

#[test]
fn without_a_network_every_value_is_the_default_except_the_policy() {
    let policy = "policy: cluster\n\trequire-encryption 1\n";
    let found = explained(policy, "192.0.2.9", None);
    assert_eq!(found[1], "require-encryption=1@cluster:2");
    let others = found.iter().filter(|setting| setting.contains('@')).count();
    assert_eq!(others, 1, "{found:?}");
}

#[test]
fn sections_and_keys_have_lines_in_every_layout() {
    let text = FILE.replace('\n', "\r\n");
    let (_, lines) = Configuration::parse_with_lines(text.as_bytes()).unwrap();
    assert_eq!(lines.section("dc2"), Some(2));
    assert_eq!(lines.section("clear"), Some(7));
    assert_eq!(lines.section("cluster"), Some(16));
    assert_eq!(lines.key("clear", "public"), Some(14));
    assert_eq!(lines.key("clear", "gateway"), None);
    assert_eq!(lines.section("nowhere"), None);
    assert_eq!(lines.policy(), Some(16));
    let (_, lines) = Configuration::parse_with_lines(b"network: cluster").unwrap();
    assert_eq!(lines.policy(), None, "a network has the ID of the policy");
    let (_, lines) = Configuration::parse_with_lines(b"network: a1\nnetwork: b1").unwrap();
    assert_eq!(
        (lines.section("a1"), lines.section("b1")),
        (Some(1), Some(2))
    );
}
