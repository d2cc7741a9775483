//! `pve-tunnel config`: what it reports about a file and about a migration, and its exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

const FILE: &str = "\
network: dc2
\tremote 192.0.2.7,pve.example.com
\tsource 10.0.0.0/24
\ttarget dc1
\tdead-peer-timeout 30

network: lab
\tsource vmbr1
\tallow secure,insecure
\tdefault insecure
\tbuffer 32M

policy: cluster
\trequire-encryption 0
";

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_pve-tunnel"))
        .arg("config")
        .args(arguments)
        .output()
        .unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the command with a file of this content.
fn run_with(content: &str, arguments: &[&str]) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c");
    fs::write(&path, content).unwrap();
    let name = path.to_str().unwrap();
    let mut run = run(&[&[name], arguments].concat());
    for text in [&mut run.stdout, &mut run.stderr] {
        let lines = text.lines().map(|line| line.chars().count());
        assert!(
            lines.max().unwrap_or(0) <= 80 || arguments.contains(&"--json"),
            "{text}"
        );
        *text = text.replace(name, "FILE");
    }
    run
}

fn json_with(content: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let run = run_with(content, &[arguments, &["--json"]].concat());
    (run.code, serde_json::from_str(&run.stdout).unwrap())
}

#[test]
fn a_valid_file_is_summarized_with_lines() {
    let run = run_with(FILE, &[]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(
        run.stdout,
        "\
FILE is valid
  line 1     network 'dc2' for 192.0.2.7, pve.example.com; allows secure
  line 7     network 'lab' for any target, by its ID only; allows secure,
             insecure (default)
  line 13    policy: encryption is not required
"
    );
}

#[test]
fn a_mistake_is_reported_with_its_line_and_code_1() {
    let run = run_with("network: dc2\n\tsorce vmbr1\n", &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        run.stderr,
        "pve-tunnel: FILE: line 2: unknown key 'sorce' in network 'dc2'\n"
    );
    let (code, report) = json_with("network: dc2\n\tsorce vmbr1\n", &["--to", "dc2"]);
    assert_eq!(code, Some(1));
    assert_eq!(report["valid"], false);
    assert_eq!(report["exists"], true);
    assert_eq!(report["migration"], Value::Null);
    let error = report["error"].as_str().unwrap();
    assert!(error.ends_with("line 2: unknown key 'sorce' in network 'dc2'"));
    // A file that was given has to exist.
    let missing = run_without_file();
    assert_eq!(missing.code, Some(1));
    assert!(
        missing
            .stderr
            .starts_with("pve-tunnel: cannot read /nonexistent/file: No such file")
    );
}

fn run_without_file() -> Run {
    run(&["/nonexistent/file"])
}

#[test]
fn the_defaults_apply_without_a_file() {
    if fs::exists("/etc/pve/remote-migration.cfg").unwrap() {
        testing::report_skipped("all of it", &"this machine has a configuration");
        return;
    }
    let plain = run(&[]);
    assert_eq!(plain.code, Some(0));
    assert!(
        plain
            .stdout
            .starts_with("There is no /etc/pve/remote-migration.cfg, so the defaults apply"),
        "{}",
        plain.stdout
    );
    let to = run(&["--to", "192.0.2.7"]);
    assert_eq!(to.code, Some(0));
    assert!(
        to.stdout
            .contains("no network is configured for remote '192.0.2.7'")
    );
}

#[test]
fn a_migration_to_a_host_gets_the_network_of_its_remote() {
    for to in ["dc2", "192.0.2.7"] {
        let run = run_with(FILE, &["--to", to]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{to}");
        let (_, migration) = run.stdout.split_once("\n\n").unwrap();
        assert_eq!(
            migration,
            "\
A migration to 192.0.2.7 that requests neither type nor network:
  network 'dc2' is configured for remote '192.0.2.7'
    type                secure                      default
    require-encryption  0                           line 14
    network here        10.0.0.0/24                 line 3
    network at target   dc1                         line 4
    public addresses    0                           default
    default gateway     0                           default
    dead-peer-timeout   30                          line 5
    congestion          auto                        default
    buffer              auto                        default
    lanes               1; plane websocket: 3       default
    threads             a quarter of the cores      default
    compression         none                        default
A migration that requests a type:
    secure    plane tls or websocket, as the target offers; no privilege beyond
              those of every migration; if the target's file has no network
              'dc1': Sys.Modify on / at the target
    insecure  refused: network 'dc2' does not allow migration_type=insecure (it
              allows: secure): request a type that it allows, or change its
              'allow'
",
            "{to}"
        );
    }
}

#[test]
fn a_migration_without_a_configured_network_gets_the_defaults() {
    let run = run_with(FILE, &["--to", "192.0.2.99"]);
    assert_eq!(run.code, Some(0));
    for expected in [
        "  no network is configured for remote '192.0.2.99'\n",
        "    network here        this node's own address     default\n",
        "    network at target   the target's own address    default\n",
        "    insecure  plane tcp; refused if the target does not offer it, CLEAR TEXT;\n",
        "needs Sys.Modify on / at this node and the target\n",
    ] {
        assert!(run.stdout.contains(expected), "{expected}: {}", run.stdout);
    }
}

#[test]
fn a_network_without_remotes_is_requested_by_its_id() {
    let (code, report) = json_with(FILE, &["--to", "lab"]);
    assert_eq!(code, Some(0));
    let at_target = json!({"path": "/", "privilege": "Sys.Modify", "on": ["target"]});
    assert_eq!(
        report["migration"],
        json!({
            "remote": null,
            "reason": "network 'lab' was requested by its ID",
            "refused": null,
            "settings": [
                {"key": "default", "value": "insecure", "origin": "file", "section": "lab", "line": 10},
                {"key": "require-encryption", "value": "0", "origin": "file", "section": "cluster", "line": 14},
                {"key": "source", "value": "vmbr1", "origin": "file", "section": "lab", "line": 8},
                {"key": "target", "value": null, "origin": "default"},
                {"key": "public", "value": "0", "origin": "default"},
                {"key": "gateway", "value": "0", "origin": "default"},
                {"key": "dead-peer-timeout", "value": "60", "origin": "default"},
                {"key": "congestion", "value": "auto", "origin": "default"},
                {"key": "buffer", "value": "32M", "origin": "file", "section": "lab", "line": 11},
                {"key": "lanes", "value": null, "origin": "default"},
                {"key": "threads", "value": null, "origin": "default"},
                {"key": "compression", "value": "none", "origin": "default"},
            ],
            "types": [
                {
                    "type": "secure", "planes": ["tls", "websocket"], "refused": null,
                    "privileges": [], "network_at_target": null,
                },
                {
                    "type": "insecure", "planes": ["tcp"], "refused": null,
                    "privileges": [at_target], "network_at_target": null,
                },
            ],
        })
    );
    let summary = &report["networks"][1];
    let expected = json!({
        "id": "lab", "line": 7, "remotes": [], "allow": ["secure", "insecure"], "default": "insecure",
    });
    assert_eq!(*summary, expected);
}

/// The target decides by its own file, which knows networks by their IDs.
#[test]
fn the_target_requires_a_privilege_for_what_its_file_does_not_contain() {
    let at_target = "needs Sys.Modify on / at the target";
    let none = "no privilege beyond those of every migration";
    let unless = "; if the target's file has no network";
    #[rustfmt::skip] // One row a line.
    let table = [
        ("", [none, at_target]),
        ("\ttarget 10.0.0.0/24\n", [at_target, at_target]),
        ("\ttarget dc1\n", [unless, unless]),
        // An interface has the form of an ID, and only the target can distinguish them.
        ("\ttarget vmbr1\n", [unless, unless]),
    ];
    for (target, expected) in table {
        let file = format!("network: dc2\n\tremote 192.0.2.7\n\tallow secure,insecure\n{target}");
        let run = run_with(&file, &["--to", "dc2"]);
        let text = run.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        let (_, types) = text.split_once("requests a type: secure ").unwrap();
        let (secure, insecure) = types.split_once(" insecure ").unwrap();
        for (each, expected) in [secure, insecure].into_iter().zip(expected) {
            assert!(each.contains(expected), "{target}: {each}");
            assert!(
                expected == unless || !each.contains(unless),
                "{target}: {each}"
            );
        }
    }
    let file = FILE.replace("\ttarget dc1\n", "\ttarget 10.0.0.0/24\n");
    let (_, report) = json_with(&file, &["--to", "dc2"]);
    let expected = json!([{"path": "/", "privilege": "Sys.Modify", "on": ["target"]}]);
    assert_eq!(report["migration"]["types"][0]["privileges"], expected);
    let (_, report) = json_with(FILE, &["--to", "dc2"]);
    assert_eq!(report["migration"]["types"][0]["network_at_target"], "dc1");
}

#[test]
fn a_migration_that_the_file_does_not_permit_ends_with_code_1() {
    let policy = FILE.replace("require-encryption 0", "require-encryption 1");
    let (code, report) = json_with(&policy, &["--to", "lab"]);
    assert_eq!(code, Some(1));
    let migration = &report["migration"];
    let refused = migration["refused"].as_str().unwrap();
    assert!(
        refused.contains("requires encryption (require-encryption)"),
        "{refused}"
    );
    assert_eq!(migration["settings"], json!([]));
    assert_eq!(migration["types"][0]["refused"], Value::Null);
    assert_eq!(migration["types"][1]["planes"], json!([]));
    let run = run_with(&policy, &["--to", "lab"]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.stdout
            .contains("  is refused: migration_type=insecure, the default")
    );
    assert_eq!(run_with(&policy, &["--to", "dc2"]).code, Some(0));
    assert_eq!(run_with(&policy, &[]).code, Some(0), "the file is valid");
}

#[test]
fn a_named_pipe_is_refused_and_a_process_substitution_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let refused = run(&[path.to_str().unwrap()]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    let expected = format!(
        "pve-tunnel: cannot read {}: it is a named pipe, and not a file\n",
        path.display()
    );
    assert_eq!(refused.stderr, expected);
    let script = r#""$0" config <(sleep 0.1; printf 'network: dc2\n\tremote 192.0.2.7\n')"#;
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_pve-tunnel")])
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && shown.contains("dc2"), "{shown}");
}

#[test]
fn wrong_arguments_end_with_code_2() {
    let run = run_with(FILE, &["--to", "192.0.2.7:8006"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        run.stderr,
        "pve-tunnel: --to: remote '192.0.2.7:8006' has a port; write the host alone\n"
    );
    let uuid = "abcdef01-2222-3333-4444-555555555555";
    let token = format!("PVEAPIToken=root@pam!move={uuid}");
    for to in [uuid, &token, &format!("host=192.0.2.7,apitoken={token}")] {
        let run = run_with(FILE, &["--to", to]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
        let expected = "pve-tunnel: --to: expected the ID of a network, or a host without token\n";
        assert_eq!(run.stderr, expected);
        // An argument that clap rejects.
        for arguments in [vec![to, to], vec!["--too", to], vec![&format!("--{to}")]] {
            let run = run_with(FILE, &arguments);
            assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
            assert!(!run.stderr.contains("2222"), "{}", run.stderr);
        }
    }
    assert_eq!(run_with(FILE, &["--no-such"]).code, Some(2));
    assert_eq!(run_with(FILE, &["second"]).code, Some(2));
}
