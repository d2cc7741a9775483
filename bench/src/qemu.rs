//! A QEMU process, and its monitor.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub const PROGRAM: &str = "qemu-system-x86_64";

/// How long QEMU may say nothing while it is waited for.
const LIMIT: Duration = Duration::from_secs(120);

/// QEMU, which ends with this or with the thread that started it.
pub struct Qemu {
    child: Child,
    monitor: BufReader<UnixStream>,
    /// Those that nobody has waited for yet.
    events: Vec<Value>,
}

impl Qemu {
    /// A guest that does not run, with these arguments.
    pub fn start(arguments: &[String]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", PROGRAM, "-S"])
            // Without hardware virtualisation QEMU takes the second; both migrate alike.
            .args(["-machine", "pc,accel=kvm:tcg", "-cpu", "max"])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-chardev", "socket,id=monitor,fd=0"])
            .args(["-mon", "chardev=monitor,mode=control"])
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut qemu = Self {
            child,
            monitor: BufReader::new(ours),
            events: Vec::new(),
        };
        let greeting = qemu.hear();
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        qemu.ask("qmp_capabilities", &json!({}));
        qemu
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it answers to a command that has to succeed.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.monitor.get_mut(), "{line}").unwrap();
        loop {
            let mut message = self.hear();
            if message.get("event").is_some() {
                self.events.push(message);
                continue;
            }
            let answer = message.get_mut("return").map(Value::take);
            return answer.unwrap_or_else(|| panic!("{line}: {message}"));
        }
    }

    /// Waits for an event with such data.
    pub fn wait_for(&mut self, name: &str, right: impl Fn(&Value) -> bool) {
        let is_it = |event: &Value| event["event"] == name && right(&event["data"]);
        if let Some(index) = self.events.iter().position(is_it) {
            self.events.remove(index);
            return;
        }
        loop {
            let message = self.hear();
            if is_it(&message) {
                return;
            }
            let failed =
                message["data"]["status"] == "failed" || message["data"]["error"] != Value::Null;
            assert!(!failed, "waiting for {name}: {message}");
            self.events.push(message);
        }
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.monitor.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("QEMU says {line:?}: {error}"))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
