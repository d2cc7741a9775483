//! What to do about a finding, and about a direct plane that does not work, by the connector's reason.

use super::connector::ConnectorError;
use crate::text::wrapped;
use nix::errno::Errno;
use pve_tunnel::{one_line, one_line_within};
use serde::{Serialize, Serializer};
use std::fmt;

/// Longest command, in characters. A part of a command would be another one.
const MAX_COMMAND: usize = 16 * 1024;

/// What to do, and the command that does it, if there is one. As JSON one string, `text: command`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Advice {
    text: String,
    command: Option<String>,
}

impl Advice {
    /// The text names where and when to run the command.
    pub(super) fn with_command(text: impl Into<String>, command: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            command: Some(command.into()),
        }
    }

    /// With foreign text as one line, and without the secret.
    pub(super) fn clean(self, secret: Option<&str>) -> Self {
        let command = self.command.as_deref();
        let command = command.map(|command| one_line_within(command, MAX_COMMAND));
        Self {
            text: without(secret, one_line(&self.text)),
            command: command.map(|command| without(secret, command)),
        }
    }

    /// The lines of a report. The command has a line of its own that is not wrapped, so that it can be
    /// copied.
    pub(super) fn lines(&self) -> String {
        match &self.command {
            None => wrapped("    → ", &self.text),
            Some(command) => {
                let text = wrapped("    → ", &format!("{}:", self.text));
                format!("{text}        {command}\n")
            }
        }
    }
}

/// The text without the secret that no output may contain.
pub(super) fn without(secret: Option<&str>, text: String) -> String {
    match secret {
        Some(secret) => text.replace(secret, "[secret]"),
        None => text,
    }
}

impl<T: Into<String>> From<T> for Advice {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            command: None,
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.command {
            None => f.write_str(&self.text),
            Some(command) => write!(f, "{}: {command}", self.text),
        }
    }
}

impl Serialize for Advice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The advice for a storage that the target does not have.
pub(super) const STORAGE: &str =
    "name a storage that the target has, that is enabled, and that stores disk images";

/// The advice for a bridge that the target does not have.
pub(super) const BRIDGE: &str = "name a bridge of the target";

/// The advice for the reason for which a listener cannot be used.
pub(super) fn for_listener(reason: &str) -> &'static str {
    let has = |text: &str| reason.contains(text);
    if has("large packets") {
        // The reason names the command that finds the limit.
        "set the MTU of both nodes to that of the network path, or raise the path's"
    } else if has("an address of this node itself") {
        "give one of the nodes another address, or choose another migration network"
    } else if has("requires encryption") {
        "use --type secure, or change the configuration of the node that the message names: see remote-migration.cfg(5)"
    } else if has(" lacks ") {
        // The reason names the privilege.
        "give the token the privilege on the target: see 'pve-tunnel-first-migration(7)'"
    } else if has("cannot resolve the node's name") {
        "add the name of the target's node to /etc/hosts on the target, or choose a migration network"
    } else if has("wait ") {
        // The reason names what to wait for.
        "wait for these migrations to end, or migrate over the websocket, which is slower"
    } else if has("refused") && has("onnection") {
        "no program listens at this address and port: check that it is an address of the target, and that no NAT or proxy answers in its place"
    } else if has("certificate") || has("is not TLS") || has("not a pve-tunnel listener") {
        "another program answers at this address and port: check NAT and port forwarding, and that the address belongs to the target"
    } else if has("timed out") || has("within") || has("no answer") {
        "open the TCP ports 60000 to 60049 of the target for this node in every firewall between them: see FIREWALL in pve-tunnel-planes(7)"
    } else if has("Network is unreachable") || has("No route") {
        "check the routes between the nodes, and the migration network: see MIGRATION NETWORK in pve-tunnel-planes(7)"
    } else {
        "see MIGRATION NETWORK and FIREWALL in pve-tunnel-planes(7)"
    }
}

/// The advice for a failure whose cause is on this node; none if it is not. The kernel's errors have numbers here,
/// which the messages of a target's Perl do not have.
pub(super) fn for_this_node(reason: &str) -> Option<&'static str> {
    let is = |errno: Errno| reason.contains(&format!("(os error {})", errno as i32));
    if reason.contains("listener: ") {
        // The worker reports an error of the target's listener, which is not Perl.
        None
    } else if is(Errno::EMFILE) {
        Some("raise the limit of open files for this command: ulimit -n")
    } else if is(Errno::ENFILE) {
        Some("raise the limit of open files of this node: sysctl fs.file-max")
    } else if is(Errno::ENOSPC) || is(Errno::EDQUOT) {
        Some("make room on this node, in the folder of TMPDIR")
    } else if is(Errno::ENOMEM) {
        Some("free memory on this node")
    } else if reason.contains("path must be shorter") {
        Some(SHORTER_TMPDIR)
    } else {
        None
    }
}

/// The advice for a folder in which the path of a socket is too long.
pub(super) const SHORTER_TMPDIR: &str =
    "set TMPDIR to a shorter path for this command, such as /tmp";

/// The advice for an answer of the target that does not come, or whose cause is not known.
pub(super) const SERVICES: &str =
    "check pveproxy, pvedaemon and pve-cluster on the target, and see its task log";

/// The advice for a request that the target's API refuses: for a VMID, or for a tunnel.
pub(super) fn for_refused_request(reason: &str) -> &'static str {
    let has = |text: &str| reason.contains(text);
    if has("quorum") || has("quorate") || (has("/etc/pve/") && has("Permission denied")) {
        // Without quorum, the file system of the cluster permits no user to write.
        "restore the quorum of the target's cluster: 'pvecm status' there shows its nodes"
    } else if reason.starts_with("403") || has("Permission") || has("permission") {
        "give the token the privilege: see 'pve-tunnel-first-migration(7)'"
    } else if has("storage") {
        STORAGE
    } else if has("bridge") {
        BRIDGE
    } else if has("already exists") {
        "choose another VMID with --target-vmid"
    } else {
        SERVICES
    }
}

/// The advice for a tunnel that fails.
pub(super) fn for_failed_tunnel(error: &ConnectorError) -> &'static str {
    match error {
        ConnectorError::Killed(_) => {
            "check the memory of this node: 'journalctl -k' shows whether the kernel has killed the process"
        }
        _ => SERVICES,
    }
}

/// The advice for a process of the target that has ended.
pub(super) const ENDED_AT_TARGET: &str = "see the task log of the target, and 'journalctl -k' there, which shows whether the kernel has killed the process";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_a_long_command_is_not() {
        let long = "VM.Allocate,".repeat(200);
        let advice = Advice::with_command(long.as_str(), format!("x\n{long}")).clean(None);
        assert!(advice.text.ends_with("..."), "{}", advice.text);
        assert_eq!(advice.command, Some(format!("x {long}")));
    }

    #[test]
    fn each_kind_of_failure_has_its_advice() {
        #[rustfmt::skip] // One row a line.
        let table = [
            ("the target's listener at 10.0.0.7, port 60000, is unreachable: Connection refused (os error 111)", "no program listens"),
            ("the target's listener at 10.0.0.7, port 60000, is unreachable: timed out after 5s", "open the TCP ports"),
            ("… is unreachable: no TLS handshake within 5s", "open the TCP ports"),
            ("… is unreachable: the target's certificate has the fingerprint 06:D2, expected 9E:A0", "another program"),
            ("… is unreachable: the data from the target is not TLS", "another program"),
            ("… is unreachable: the program that listens there is not a pve-tunnel listener", "another program"),
            ("… is unreachable: Network is unreachable (os error 101)", "check the routes"),
            ("… is unreachable: the listener refused the handshake", "see MIGRATION NETWORK and FIREWALL"),
            ("… No route to host (os error 113)", "check the routes"),
            ("large packets to the target are lost, … within 5s; check with ping -M do", "set the MTU"),
            ("the target announces 10.0.0.7, which is an address of this node itself", "another address"),
            ("clear text is refused: user 'a@pve' lacks Sys.Modify on '/'; the ID of a configured network needs none", "give the token"),
            ("listener: cannot resolve the node's name 'pve2': Name or service not known", "/etc/hosts on the target"),
            ("listener: user 'a@pve' already has 8 listeners on this node: wait until one of these migrations has ended", "wait for these"),
            ("listener: all ports from 60000 to 60049 on 10.0.0.7 are in use: wait for other migrations to end", "wait for these"),
            ("listener: /etc/pve/remote-migration.cfg of the target requires encryption", "use --type secure"),
            ("something else", "see MIGRATION NETWORK"),
        ];
        for (reason, advice) in table {
            assert!(for_listener(reason).contains(advice), "{reason}");
        }
    }

    #[test]
    fn a_cause_on_this_node_has_an_advice_for_this_node() {
        #[rustfmt::skip] // One row a line.
        let table = [
            ("connection 1: cannot accept it: Too many open files (os error 24)", Some("ulimit -n")),
            ("cannot connect: Too many open files in system (os error 23)", Some("fs.file-max")),
            ("No space left on device (os error 28)", Some("TMPDIR")),
            ("Disk quota exceeded (os error 122)", Some("TMPDIR")),
            ("Cannot allocate memory (os error 12)", Some("memory")),
            ("cannot listen at '/a': path must be shorter than SUN_LEN", Some("shorter path")),
            ("Connection refused (os error 111)", None),
            // Of the target.
            ("listener: cannot accept connections: Too many open files (os error 24)", None),
            ("500 unable to open file: Too many open files", None),
            ("500 unable to write: No space left on device", None),
        ];
        for (reason, advice) in table {
            match (for_this_node(reason), advice) {
                (Some(found), Some(advice)) => assert!(found.contains(advice), "{reason}: {found}"),
                (found, advice) => assert_eq!(found, advice, "{reason}"),
            }
        }
    }

    #[test]
    fn each_kind_of_refusal_has_its_advice() {
        #[rustfmt::skip] // One row a line.
        let table = [
            ("403 Permission check failed (/, Sys.Incoming)", "give the token"),
            ("500 storage 'x' does not exist", "name a storage"),
            ("500 no such bridge 'x'", "name a bridge"),
            ("500 cluster not ready - no quorum?", "restore the quorum"),
            ("400 Parameter verification failed.: vmid: unable to create empty VM config - cluster not ready - no quorum?", "restore the quorum"),
            ("500 unable to open file '/etc/pve/nodes/a/qemu-server/9.conf.tmp.1' - Permission denied", "restore the quorum"),
            ("400 Parameter verification failed.: vmid: unable to create empty VM config - VM 9 already exists on node 'a'", "another VMID"),
            ("400 Parameter verification failed.: vmid: unable to create empty VM config", "pve-cluster"),
            ("500 unable to create VM 1403 config", "pve-cluster"),
            ("599 x", "task log"),
        ];
        for (reason, advice) in table {
            assert!(for_refused_request(reason).contains(advice), "{reason}");
        }
    }
}
