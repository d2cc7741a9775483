//! A QEMU process, controlled through QMP.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = "qemu-system-x86_64";

/// The longest time between two messages from QEMU.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(120);

/// Fails if QEMU is not installed.
pub fn require() -> Result<(), String> {
    let mut version = Command::new(PROGRAM);
    version.arg("--version").stdout(Stdio::null());
    match version.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("needs {PROGRAM}")),
    }
}

/// A QEMU process. It ends when this value is dropped, or when the thread that started it ends.
pub struct Qemu {
    child: Child,
    monitor: BufReader<UnixStream>,
    /// Received events for which `wait_for` has not been called yet.
    events: Vec<Value>,
}

impl Qemu {
    /// Starts QEMU with these arguments. The guest is paused.
    pub fn start(arguments: &[String]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(MESSAGE_TIMEOUT)).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", PROGRAM, "-S"])
            // QEMU uses TCG if KVM is not available. Migration is the same with both.
            .args(["-machine", "pc,accel=kvm:tcg"])
            // Nested KVM may offer this feature and refuse its MSR.
            .args(["-cpu", "max,arch-capabilities=off"])
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
        let greeting = qemu.receive();
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        qemu.execute("qmp_capabilities", &json!({}));
        qemu
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command, which must succeed, and returns its result.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.monitor.get_mut(), "{line}").unwrap();
        loop {
            let mut message = self.receive();
            if message.get("event").is_some() {
                self.events.push(message);
                continue;
            }
            let result = message.get_mut("return").map(Value::take);
            return result.unwrap_or_else(|| panic!("{line}: {message}"));
        }
    }

    /// Waits for an event whose data `matches` accepts. Panics if QEMU reports a
    /// failure first.
    pub fn wait_for(&mut self, name: &str, matches: impl Fn(&Value) -> bool) {
        let is_expected = |event: &Value| event["event"] == name && matches(&event["data"]);
        if let Some(index) = self.events.iter().position(is_expected) {
            self.events.remove(index);
            return;
        }
        loop {
            let message = self.receive();
            if is_expected(&message) {
                return;
            }
            let failed =
                message["data"]["status"] == "failed" || message["data"]["error"] != Value::Null;
            assert!(!failed, "waiting for {name}: {message}");
            self.events.push(message);
        }
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.monitor.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("QEMU sent {line:?}: {error}"))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
