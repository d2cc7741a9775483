//! `/etc/pve/remote-migration.cfg`: accepted content, and the line number in each error.

use pve_tunnel::Compression;
use pve_tunnel::configuration::{
    Configuration, ConfigurationError, Host, MAX_FILE, MAX_LINE, MAX_SECTIONS, is_id,
};
use pve_tunnel::plane::MigrationType;
use pve_tunnel::tuning::{Buffer, Congestion};

const GOOD: &str = "\
# Between our two sites, over the dark fibre.
network: dc2
\tremote 192.0.2.7,pve.example.com, [FD00::7]
\tsource 10.0.0.0/24
\ttarget dc1
\tallow secure,insecure
\tdefault insecure
\tpublic yes
\tgateway On
\tdead-peer-timeout 30
\tcongestion bbr
\tbuffer 32M
\tlanes 8
\tthreads 3
\tcompression zstd
\tcomment Ask the network team  # before changing this: they own it

network: backup-site
    # No remote: by ID alone.
    source vmbr1

policy: cluster
\trequire-encryption 0
";

fn parsed(text: &str) -> Configuration {
    Configuration::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

fn parse_error(text: &[u8]) -> String {
    match Configuration::parse(text) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("this was accepted:\n{}", String::from_utf8_lossy(text)),
    }
}

#[test]
fn every_section_and_key_of_a_file_is_parsed() {
    let configuration = parsed(GOOD);
    assert!(!configuration.require_encryption);
    let ids: Vec<&str> = configuration
        .networks
        .iter()
        .map(|network| &*network.id)
        .collect();
    assert_eq!(ids, ["dc2", "backup-site"]);

    let dc2 = configuration.network("dc2").unwrap();
    let remotes: Vec<String> = dc2.remotes.iter().map(Host::to_string).collect();
    assert_eq!(remotes, ["192.0.2.7", "pve.example.com", "fd00::7"]);
    assert_eq!(dc2.source.as_deref(), Some("10.0.0.0/24"));
    assert_eq!(dc2.target.as_deref(), Some("dc1"));
    let both = [MigrationType::Secure, MigrationType::Insecure];
    assert_eq!(dc2.allowed, both);
    assert_eq!(dc2.default, MigrationType::Insecure);
    assert!(dc2.public && dc2.gateway);
    assert_eq!(dc2.dead_peer_timeout, 30);
    assert_eq!(dc2.congestion, Congestion::Bbr);
    assert_eq!(dc2.buffer, Buffer::Bytes(32 << 20));
    assert_eq!((dc2.lanes, dc2.threads), (Some(8), Some(3)));
    assert_eq!(dc2.compression, Compression::Zstd);
    let comment = "Ask the network team  # before changing this: they own it";
    assert_eq!(dc2.comment.as_deref(), Some(comment));

    let other = configuration.network("backup-site").unwrap();
    assert_eq!(other.allowed, [MigrationType::Secure]);
    assert_eq!(other.default, MigrationType::Secure);
    assert_eq!(other.source.as_deref(), Some("vmbr1"));
    assert_eq!((&other.target, &other.comment), (&None, &None));
    assert!(other.remotes.is_empty() && !other.public && !other.gateway);
    assert_eq!(other.dead_peer_timeout, 60);
    assert_eq!(other.congestion, Congestion::Auto);
    assert_eq!(other.buffer, Buffer::Auto);
    assert_eq!((other.lanes, other.threads), (None, None));
    assert_eq!(other.compression, Compression::None);
    assert!(configuration.network("dc1").is_none() && configuration.network("DC2").is_none());
}

#[test]
fn layouts_that_differ_in_white_space_and_comments_are_equal() {
    let plain = "network: dc2\n\tsource vmbr1\n\nnetwork: dc3\n\tsource vmbr2\n";
    #[rustfmt::skip] // One row a line.
    let table = [
        ("no newline at the end", plain.trim_end().to_owned()),
        ("CR LF", plain.replace('\n', "\r\n")),
        ("spaces", plain.replace('\t', "        ")),
        ("a tab between key and value", plain.replace("source ", "source\t \t")),
        ("white space at the ends of lines", plain.replace('\n', " \t\n")),
        ("no space after the type", plain.replace(": ", ":")),
        ("empty lines around", format!("\n \n\t\n{plain}\n\n\n")),
        ("no empty line between sections", plain.replace("\n\n", "\n")),
        ("comments everywhere", format!("# a\n{}#z", plain.replace('\n', "\n  # x: y\n"))),
    ];
    for (name, text) in table {
        assert_eq!(parsed(&text), parsed(plain), "{name}");
    }
    for empty in [
        "",
        "\n",
        "\r\n",
        "# only\n\t# comments\n",
        "policy: cluster\n",
        "policy: cluster",
    ] {
        assert_eq!(parsed(empty), Configuration::default(), "{empty:?}");
    }
    assert_eq!(parsed("network: dc2\n").networks[0].allowed.len(), 1);
}

#[test]
fn booleans_have_the_spellings_of_proxmox() {
    for (words, expected) in [
        (["1", "yes", "on", "true", "YES", "True"], true),
        (["0", "no", "off", "false", "Off", "NO"], false),
    ] {
        for word in words {
            let text = format!(
                "network: dc2\n public {word}\n gateway {word}\npolicy: cluster\n require-encryption {word}"
            );
            let configuration = parsed(&text);
            let network = &configuration.networks[0];
            assert_eq!(
                [
                    network.public,
                    network.gateway,
                    configuration.require_encryption
                ],
                [expected; 3],
                "{word}"
            );
        }
    }
}

#[test]
fn the_examples_of_the_manual_page_are_accepted() {
    let reference = include_str!("../../docs/man/remote-migration.cfg.pod");
    let mut examples = verbatim_blocks(reference);
    examples.retain(|block| !block.trim_start().starts_with("pve-tunnel "));
    assert!(examples.len() >= 5, "{} examples", examples.len());
    for example in examples {
        assert_eq!(parsed(&example).networks.len(), 1, "{example}");
    }
    // Every key has an item in the manual page.
    for key in [
        "remote",
        "source",
        "target",
        "allow",
        "default",
        "public",
        "gateway",
        "dead-peer-timeout",
        "comment",
        "require-encryption",
    ] {
        assert!(reference.contains(&format!("\n=item B<{key}> ")), "{key}");
    }
}

/// The verbatim blocks of a POD text, without their indentation. In that page, each block is a
/// complete file, or a command, which `t/05-first-migration.t` runs.
fn verbatim_blocks(pod: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in pod.lines() {
        let block = blocks.last_mut().unwrap();
        if let Some(text) = line.strip_prefix("    ") {
            *block += text;
            *block += "\n";
        } else if line.is_empty() {
            *block += "\n";
        } else if !block.trim().is_empty() {
            blocks.push(String::new());
        }
    }
    blocks.retain(|block| !block.trim().is_empty());
    blocks
}

#[test]
fn every_error_names_its_line() {
    #[rustfmt::skip] // One row a line.
    let table = [
        // Sections
        ("unknown type", "\nnetwrok: dc2\n", "line 2: unknown section type 'netwrok', expected one of: network, policy"),
        ("type in capitals", "Network: dc2\n", "line 1: unknown section type 'Network'"),
        ("no type", ": dc2\n", "line 1: unknown section type ''"),
        ("no ID", "# x\n\nnetwork:\n", "line 3: the section has no ID: write 'network: ID'"),
        ("ID of a digit", "network: 2dc\n", "line 1: ID '2dc' does not begin with a letter"),
        ("ID of one letter", "network: d\n", "line 1: ID 'd' does not have 2 to 40 characters"),
        ("long ID", "network: a234567890123456789012345678901234567890X\n", "does not have 2 to 40 characters"),
        ("ID with a slash", "network: dc/2\n", "line 1: ID 'dc/2' has characters other than letters, digits"),
        ("two IDs", "network: dc2 dc3\n", "line 1: ID 'dc2 dc3' has characters other than"),
        ("comment after an ID", "network: dc2 # ours\n", "line 1: ID 'dc2 # ours' has characters other than"),
        ("ID beyond ASCII", "network: züri\n", "line 1: ID 'züri' has characters other than"),
        ("duplicate ID", "network: dc2\n\nnetwork: dc2\n", "line 3: ID 'dc2' is already used by the section at line 1"),
        ("ID of the policy", "policy: cluster\n\nnetwork: cluster\n", "line 3: ID 'cluster' is already used by the section at line 1"),
        ("another policy", "policy: mine\n\trequire-encryption 1\n", "line 1: the policy's ID is 'cluster', not 'mine'"),
        ("two policies", "policy: cluster\npolicy: cluster\n", "line 2: ID 'cluster' is already used"),
        // Lines
        ("no indent", "network: dc2\nsource vmbr1\n", "line 2: 'source vmbr1' is not a section ('network: ID'), and a property begins with white space"),
        ("no indent, with a colon", "network: dc2\nsource fd00::/64\n", "line 2: 'source fd00::/64' is not a section"),
        ("indented section", " network: dc2\n", "line 1: property 'network:' is before any section"),
        ("property before any section", "# x\n\tsource vmbr1\n", "line 2: property 'source' is before any section"),
        ("property after an empty line", "network: dc2\n\n\tsource vmbr1\n", "line 3: property 'source' follows an empty line, which ends a section"),
        ("property after an almost empty line", "network: dc2\n \t\n\tsource vmbr1\n", "line 3: property 'source' follows an empty line"),
        // Keys
        ("unknown key", "network: dc2\n\tsource vmbr1\n\tfoo 1\n", "line 3: unknown key 'foo' in network 'dc2'"),
        ("key in capitals", "network: dc2\n\tSource vmbr1\n", "line 2: unknown key 'Source' in network 'dc2'"),
        ("key with a colon", "network: dc2\n\tsource: vmbr1\n", "line 2: unknown key 'source:' in network 'dc2'"),
        ("underscore", "network: dc2\n\tdead_peer_timeout 5\n", "line 2: unknown key 'dead_peer_timeout'"),
        ("key of a network in the policy", "policy: cluster\n\tallow secure\n", "line 2: unknown key 'allow' in policy 'cluster'"),
        ("key of the policy in a network", "network: dc2\n\trequire-encryption 1\n", "line 2: unknown key 'require-encryption' in network 'dc2'"),
        ("duplicate key", "network: dc2\n\tpublic 0\n\t# x\n\tpublic 0\n", "line 4: key 'public' in network 'dc2' is already given at line 2"),
        ("duplicate key of the policy", "policy: cluster\n\trequire-encryption 1\n\trequire-encryption 0\n", "line 3: key 'require-encryption' in policy 'cluster' is already given at line 2"),
        ("no value", "network: dc2\n\tsource\n", "line 2: key 'source' in network 'dc2' has no value"),
        ("no value but spaces", "network: dc2\n\tcomment  \t \n", "line 2: key 'comment' in network 'dc2' has no value"),
        ("no value in the policy", "policy: cluster\n\trequire-encryption\n", "line 2: key 'require-encryption' in policy 'cluster' has no value"),
        // Values
        ("boolean", "network: dc2\n\tpublic maybe\n", "line 2: 'public' of network 'dc2': 'maybe' is not a boolean: write 0 or 1"),
        ("boolean out of range", "network: dc2\n\tgateway 2\n", "line 2: 'gateway' of network 'dc2': '2' is not a boolean"),
        ("boolean with a comment", "policy: cluster\n\trequire-encryption 1 # all\n", "line 2: 'require-encryption' of policy 'cluster': '1 # all' is not a boolean"),
        ("CIDR with too long a prefix", "network: dc2\n\tsource 10.0.0.0/33\n", "line 2: 'source' of network 'dc2': migration network '10.0.0.0/33' has a prefix longer"),
        ("CIDR too wide", "network: dc2\n\tsource 0.0.0.0/0\n", "line 2: 'source' of network 'dc2': migration network '0.0.0.0/0' is too wide"),
        ("CIDR of the target", "network: dc2\n\ttarget 10.0.0/24\n", "line 2: 'target' of network 'dc2': migration network '10.0.0/24' is not a CIDR"),
        ("address", "network: dc2\n\tsource 10.0.0.1\n", "line 2: 'source' of network 'dc2': migration network '10.0.0.1' is an address; write it with its prefix"),
        ("an alias", "network: dc2\n\tsource a:name\n", "line 2: 'source' of network 'dc2': migration network 'a:name' has a colon"),
        ("two networks", "network: dc2\n\tsource 10.0.0.0/24,10.1.0.0/24\n", "line 2: 'source' of network 'dc2'"),
        ("type", "network: dc2\n\tallow secure, clear\n", "line 2: 'allow' of network 'dc2': 'clear' is not a type of migration, expected one of: secure, insecure"),
        ("type in capitals", "network: dc2\n\tallow Secure\n", "line 2: 'allow' of network 'dc2': 'Secure' is not a type"),
        ("type left out", "network: dc2\n\tallow secure,\n", "line 2: 'allow' of network 'dc2': '' is not a type"),
        ("type twice", "network: dc2\n\tallow secure,secure\n", "line 2: 'allow' of network 'dc2': secure is given twice"),
        ("two defaults", "network: dc2\n\tdefault secure,insecure\n", "line 2: 'default' of network 'dc2': 'secure,insecure' is not a type"),
        ("default not allowed", "network: dc2\n\tdefault secure\n\tallow insecure\n\npolicy: cluster\n", "line 2: 'default' of network 'dc2': secure is not in its 'allow' (insecure)"),
        ("default not allowed by default", "network: dc2\n\tpublic 0\n\tdefault insecure", "line 3: 'default' of network 'dc2': insecure is not in its 'allow' (secure)"),
        ("no seconds", "network: dc2\n\tdead-peer-timeout 0\n", "line 2: 'dead-peer-timeout' of network 'dc2': '0' is not a number of seconds from 1 to 3600"),
        ("too many seconds", "network: dc2\n\tdead-peer-timeout 3601\n", "'3601' is not a number of seconds"),
        ("seconds beyond every number", "network: dc2\n\tdead-peer-timeout 65596\n", "'65596' is not a number of seconds"),
        ("seconds with a unit", "network: dc2\n\tdead-peer-timeout 60s\n", "'60s' is not a number of seconds"),
        ("a fraction of seconds", "network: dc2\n\tdead-peer-timeout 1.5\n", "'1.5' is not a number of seconds"),
        ("compression", "network: dc2\n\tcompression gzip\n", "line 2: 'compression' of network 'dc2': 'gzip' is not a compression, expected one of: none, zstd"),
        ("congestion control", "network: dc2\n\tcongestion reno\n", "line 2: 'congestion' of network 'dc2': 'reno' is not a congestion control, expected one of: auto, system, bbr, cubic"),
        ("buffer without a unit", "network: dc2\n\tbuffer 32\n", "line 2: 'buffer' of network 'dc2': '32' is not a buffer size, expected one of: auto, system, a number of bytes from 64K to 256M"),
        ("buffer with another unit", "network: dc2\n\tbuffer 32MiB\n", "line 2: 'buffer' of network 'dc2': '32MiB' is not a buffer size"),
        // Remotes
        ("port", "network: dc2\n\tremote pve.example.com:8006\n", "line 2: 'remote' of network 'dc2': host 'pve.example.com:8006' has a port"),
        ("host left out", "network: dc2\n\tremote 192.0.2.7,,192.0.2.8\n", "line 2: 'remote' of network 'dc2': host '' is empty"),
        ("hosts without a comma", "network: dc2\n\tremote 192.0.2.7 192.0.2.8\n", "line 2: 'remote' of network 'dc2': host '192.0.2.7 192.0.2.8' is not an IPv4 address"),
        ("a host twice", "network: dc2\n\tremote fd00::7,[fd00:0::7]\n", "line 2: remote 'fd00::7' is listed twice in network 'dc2'"),
        ("a host in two networks", "network: dc2\n\tremote PVE.example.com\n\nnetwork: dc3\n\tpublic 0\n\tremote pve.example.com.\n", "line 6: remote 'pve.example.com' of network 'dc3' is already listed in network 'dc2' at line 2"),
        // Characters
        ("NUL", "network: dc2\n\tcomment a\0b\n", "line 2: has a NUL byte"),
        ("control character", "network: dc2\n\tcomment a\x1b[2Jb\n", "line 2: has a control character"),
        ("control character beyond ASCII", "# \u{85}\n", "line 1: has a control character"),
        ("CR inside a line", "network: dc2\r\tpublic 1\n", "line 1: has a control character"),
        ("byte order mark", "\u{feff}network: dc2\n", "line 1: begins with a byte order mark"),
    ];
    for (name, text, expected) in table {
        let error = parse_error(text.as_bytes());
        let first = expected.starts_with("line ");
        assert!(
            if first {
                error.starts_with(expected)
            } else {
                error.contains(expected)
            },
            "{name}: {error}"
        );
        assert!(!error.contains(char::is_control), "{name}: {error:?}");
        // CR LF does not change the line number.
        assert_eq!(
            parse_error(text.replace('\n', "\r\n").as_bytes()),
            error,
            "{name}"
        );
    }
    assert_eq!(
        parse_error(b"network: dc2\n\tcomment Z\xfcrich\n"),
        "line 2: is not UTF-8; save the file as UTF-8"
    );
    assert!(matches!(
        Configuration::parse(b"\xff"),
        Err(ConfigurationError::NotUtf8 { line: 1 })
    ));
}

#[test]
fn lines_sections_and_the_file_have_limits() {
    let line = |len: usize| format!("network: dc2\n\tcomment {}", "x".repeat(len - 9));
    assert!(parsed(&line(MAX_LINE)).networks[0].comment.is_some());
    let error = parse_error(line(MAX_LINE + 1).as_bytes());
    assert_eq!(error, "line 2: has 4097 bytes, at most 4096 are accepted");
    let error = parse_error(format!("#\r\n{}\r\n", "#".repeat(MAX_LINE + 1)).as_bytes());
    assert_eq!(error, "line 2: has 4097 bytes, at most 4096 are accepted");

    let sections = |count: usize| -> String {
        (0..count)
            .map(|number| format!("network: n{number:03}\n"))
            .collect()
    };
    assert_eq!(parsed(&sections(MAX_SECTIONS)).networks.len(), MAX_SECTIONS);
    let error = parse_error(sections(MAX_SECTIONS + 1).as_bytes());
    assert_eq!(error, "line 257: more than 256 sections");

    let file = |len: usize| "#\n".repeat(MAX_FILE / 2) + &"\n".repeat(len - MAX_FILE);
    assert_eq!(parsed(&file(MAX_FILE)), Configuration::default());
    let error = parse_error(file(MAX_FILE + 1).as_bytes());
    assert_eq!(
        error,
        "the file has 1048577 bytes, at most 1048576 are accepted"
    );
}

#[test]
fn an_id_has_2_to_40_characters_and_begins_with_a_letter() {
    for good in ["dc", "a1", "A-b_c.d", &"x".repeat(40), "vmbr0"] {
        assert!(is_id(good), "{good}");
    }
    for bad in [
        "",
        "d",
        "1a",
        "-a",
        ".a",
        "a b",
        "a/24",
        "a:b",
        "dé",
        "a\n",
        &"x".repeat(41),
    ] {
        assert!(!is_id(bad), "{bad}");
    }
}

#[test]
fn spellings_of_the_same_host_are_equal_and_malformed_hosts_are_refused() {
    #[rustfmt::skip] // One row a line.
    let same = [
        ("pve.example.com", "PVE.Example.COM"),
        ("pve.example.com", "pve.example.com."),
        ("pve", "PVE."),
        ("192.0.2.7", "::ffff:192.0.2.7"),
        ("192.0.2.7", "[::FFFF:c000:207]"),
        ("::1", "[::1]"),
        ("::1", "0:0:0:0:0:0:0:1"),
        ("fd00::a", "[FD00:0:0::000A]"),
        ("2001:db8::192.0.2.7", "2001:db8::c000:207"),
    ];
    for (one, other) in same {
        assert_eq!(Host::parse(one), Host::parse(other), "{one} {other}");
        assert!(Host::parse(one).is_ok(), "{one}");
    }
    #[rustfmt::skip] // One row a line.
    let different = [
        ("pve.example.com", "pve.example.org"), ("pve", "pve.example.com"), ("192.0.2.7", "192.0.2.70"),
        ("192.0.2.7", "::192.0.2.7"), ("fd00::1", "fd00:0:1::"), ("localhost", "127.0.0.1"),
    ];
    for (one, other) in different {
        assert!(
            Host::parse(one).unwrap() != Host::parse(other).unwrap(),
            "{one} {other}"
        );
    }
    #[rustfmt::skip] // One row a line.
    let refused = [
        ("", "is empty"),
        (".", "has an empty label"),
        ("pve.example.com..", "has an empty label"),
        (".example.com", "has an empty label"),
        ("pve.example.com:8006", "has a port"),
        ("192.0.2.7:8006", "has a port"),
        ("[::1]:8006", "has a port"),
        ("[::1", "has no closing bracket"),
        ("[::1]x", "has text after its closing bracket"),
        ("[192.0.2.7]", "is not an IPv6 address"),
        ("[pve]", "is not an IPv6 address"),
        ("[]", "is not an IPv6 address"),
        (":8006", "is not an IPv6 address"),
        ("fd00:::1", "is not an IPv6 address"),
        ("fe80::1%eth0", "has a zone"),
        ("[fe80::1%eth0]", "has a zone"),
        ("10.1", "is not an IPv4 address of four decimal numbers"),
        ("010.0.0.1", "without leading zeros"),
        ("192.0.2.7.", "is not an IPv4 address"),
        ("192.0.2.256", "is not an IPv4 address"),
        ("167772161", "is not an IPv4 address"),
        ("pve.10", "is not an IPv4 address"),
        ("https://pve", "is not an IPv6 address"),
        ("pve/8006", "characters that a host name cannot have"),
        ("pve example", "characters that a host name cannot have"),
        ("zürich.example", "international names as xn--"),
        ("-pve", "begins or ends with '-'"),
        ("pve-.example", "begins or ends with '-'"),
    ];
    for (host, expected) in refused {
        let reason = Host::parse(host).expect_err(host);
        assert!(reason.contains(expected), "{host}: {reason}");
    }
    let label = "x".repeat(63);
    let longest = [&label[..], &label, &label, &"x".repeat(61)].join(".");
    assert!(longest.len() == 253 && Host::parse(&longest).is_ok());
    assert!(Host::parse(&format!("{longest}.")).is_ok());
    assert!(
        Host::parse(&format!("{longest}x"))
            .unwrap_err()
            .contains("253")
    );
    assert!(
        Host::parse(&format!("{label}x.example"))
            .unwrap_err()
            .contains("63")
    );
}

/// Pseudo-random numbers (xorshift64) from a fixed seed, so that a failure can be reproduced.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

#[test]
fn arbitrary_bytes_never_panic_and_every_error_names_a_line_of_the_file() {
    const TOKENS: [&[u8]; 14] = [
        b"network: ",
        b"policy: cluster\n",
        b"\n",
        b"\n\t",
        b"remote ",
        b"allow ",
        b"insecure",
        b",",
        b"10.0.0.0/24",
        b"[::1]",
        b"\0",
        b"\xff",
        b"\r\n",
        b"require-encryption 1\n",
    ];
    let accepts = |bytes: &[u8]| match Configuration::parse(bytes) {
        Ok(_) => true,
        Err(error) => {
            let text = error.to_string();
            let line: usize = text
                .strip_prefix("line ")
                .and_then(|rest| rest.split(':').next())
                .and_then(|number| number.parse().ok())
                .unwrap_or_else(|| panic!("{text}"));
            let lines = bytes.split(|byte| *byte == b'\n').count();
            assert!((1..=lines).contains(&line), "{text}");
            assert!(!text.contains(char::is_control), "{text:?}");
            false
        }
    };
    let good = GOOD.as_bytes();
    let mut accepted = 0;
    for end in 0..=good.len() {
        accepted += usize::from(accepts(&good[..end]));
    }
    assert!(accepted > 10, "some truncated files are valid");

    let mut numbers = Numbers(0x5eed_0001);
    for _ in 0..20_000 {
        let len = numbers.below(80);
        let noise: Vec<u8> = (0..len).map(|_| numbers.below(256) as u8).collect();
        accepts(&noise);

        let mut mutated = good.to_vec();
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(mutated.len());
            match numbers.below(4) {
                0 => mutated[at] = numbers.below(256) as u8,
                1 => mutated.truncate(at.max(1)),
                2 => drop(mutated.remove(at)),
                _ => {
                    let token = TOKENS[numbers.below(TOKENS.len())];
                    mutated.splice(at..at, token.iter().copied());
                }
            }
            if mutated.is_empty() {
                break;
            }
        }
        accepted += usize::from(accepts(&mutated));

        let tokens: Vec<u8> = (0..numbers.below(12))
            .flat_map(|_| TOKENS[numbers.below(TOKENS.len())])
            .copied()
            .collect();
        accepted += usize::from(accepts(&tokens));
    }
    assert!(accepted > 100, "some mutated files are valid: {accepted}");
}
