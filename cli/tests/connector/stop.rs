//! The end of the caller: by a signal to its process group, as Proxmox VE stops a task, and by
//! SIGKILL. The connector lives on as long as the caller may still clean up.

use serde_json::json;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use testing::connector::{Connector, executable, with_default_signals};
use testing::target::{Target, serve_worker, stock_answer};
use testing::{signal, wait_until};

/// A target, and the commands that its worker received.
fn recording_target() -> (Target, Arc<Mutex<Vec<String>>>) {
    let commands: Arc<Mutex<Vec<String>>> = Arc::default();
    let received = commands.clone();
    let target = Target::new(move |request| {
        serve_worker(request, |command| {
            let name = command["cmd"].as_str().unwrap().to_owned();
            received.lock().unwrap().push(name.clone());
            match name.as_str() {
                "quit" => json!({ "success": true }),
                _ => stock_answer(command),
            }
        });
    });
    (target, commands)
}

/// A connector whose parent leads a process group, and keeps its ends of the pipes open.
fn in_group_of_a_caller() -> Connector {
    let mut command = with_default_signals(Path::new("perl"));
    command
        .args(["-e", "fork or exec @ARGV; sleep 600"])
        .arg(executable())
        .arg("connect")
        .process_group(0);
    Connector::spawn(&mut command)
}

#[test]
fn a_signal_to_the_group_of_the_caller_does_not_end_the_connector() {
    for name in ["TERM", "INT", "HUP", "QUIT", "KILL"] {
        let (target, commands) = recording_target();
        let mut connector = in_group_of_a_caller();
        connector.connect(&target);
        assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);

        let group = format!("-{}", connector.child.id());
        let mut kill = Command::new("kill");
        assert!(
            kill.args(["-s", name, "--", &group])
                .status()
                .unwrap()
                .success()
        );
        assert!(!connector.child.wait().unwrap().success(), "SIG{name}");

        // The caller's pipes still exist, and its clean-up uses them.
        let quit = connector.request(&json!({ "cmd": "quit" }));
        assert_eq!(quit["success"], true, "SIG{name}: {quit}");
        let finished = connector.finish();
        assert!(!finished.log.contains("ended by"), "{}", finished.log);
        assert_eq!(*commands.lock().unwrap(), ["version", "quit"], "SIG{name}");
    }
}

#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    for name in ["HUP", "INT", "TERM"] {
        let (target, _) = recording_target();
        let mut command = Command::new("env");
        command
            .arg(format!("--ignore-signal={name}"))
            .arg(executable())
            .arg("connect");
        let mut connector = Connector::spawn(&mut command);
        connector.connect(&target);
        assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
        signal(name, connector.child.id());
        assert_eq!(
            connector.request(&json!({ "cmd": "version" }))["api"],
            2,
            "SIG{name}"
        );
        let finished = connector.finish();
        assert!(finished.status.success(), "SIG{name}: {}", finished.log);
    }
}

#[test]
fn commands_of_a_caller_that_no_longer_reads_answers_reach_the_worker() {
    let (target, commands) = recording_target();
    let mut connector = Connector::connected(&target);
    connector.close_output();
    connector.send(&json!({ "cmd": "stop" }));
    wait_until("the first command arrives", || {
        commands.lock().unwrap().len() == 2
    });
    connector.send(&json!({ "cmd": "quit" }));
    let finished = connector.finish();
    assert_eq!(*commands.lock().unwrap(), ["version", "stop", "quit"]);
    assert!(finished.status.success(), "{}", finished.log);
    assert_eq!(
        finished.log.matches("the caller no longer reads").count(),
        1,
        "{}",
        finished.log
    );
}

#[test]
fn the_end_of_the_input_without_quit_is_reported_as_the_end_of_the_caller() {
    for quit in [false, true] {
        let (target, _) = recording_target();
        let mut connector = Connector::connected(&target);
        if quit {
            connector.request(&json!({ "cmd": "quit" }));
        }
        let finished = connector.finish();
        assert_eq!(
            finished
                .log
                .contains("the caller of this tunnel has ended without 'quit'"),
            !quit,
            "{}",
            finished.log
        );
    }
}
