//! The target, as far as its API shows it: addresses, TLS, token, clock, VMIDs.

use super::advice;
use super::api::{self, Answer, Api, ApiError};
use super::finding::{Finding, Step};
use super::guest::Guest;
use super::remote::Remote;
use super::report::Report;
use super::version;
use crate::arguments::Check;
use pve_tunnel::tls::{Fingerprint, TlsError};
use serde_json::Value;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, SystemTime};
use tokio::runtime::{Builder, Runtime};

/// For the resolver.
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(10);

/// TCP connections of which the shortest time is reported.
const ROUND_TRIPS: u32 = 3;

/// A clock that differs by more can make the nodes' one-time certificates invalid, which begin one day
/// in the past.
const CLOCK_LIMIT: Duration = Duration::from_secs(23 * 3600);

/// A clock that differs by more makes the logs of both nodes hard to compare.
const CLOCK_WARNING: Duration = Duration::from_secs(30);

/// VMIDs for tunnels without a guest: the upper end of what Proxmox VE accepts, where people do not
/// create guests.
const VMIDS: std::ops::Range<u32> = 999_000_000..1_000_000_000;

/// How many of them are tried.
const VMID_ATTEMPTS: u32 = 5;

/// The target's node.
pub(super) struct Target {
    pub(super) node: String,
}

/// Resolves the remote, connects to it, and agrees on TLS. None if that fails.
pub(super) fn reach(remote: &Remote, report: &mut Report) -> Option<Api> {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let text = format!("cannot open connections: {error}");
            report.add(Finding::failed(
                Step::Address,
                text,
                "check the limits of open files",
            ));
            return None;
        }
    };
    let address = reachable_address(remote, &runtime, report)?;
    let notifier = report.notifier();
    let notify = Box::new(move |text: &str| notifier(text, None));
    let api = match Api::new(remote, address, runtime, notify) {
        Ok(api) => api,
        Err(error) => {
            report.add(Finding::failed(
                Step::Tls,
                error.to_string(),
                FINGERPRINT_ADVICE,
            ));
            return None;
        }
    };
    check_tls(&api, remote, report).then_some(api)
}

const FINGERPRINT_ADVICE: &str = "run 'pvenode cert info' on the target, and give the fingerprint of pveproxy-ssl.pem, or of pve-ssl.pem if there is no other, as fingerprint=...";

fn reachable_address(
    remote: &Remote,
    runtime: &Runtime,
    report: &mut Report,
) -> Option<SocketAddr> {
    let addresses = match resolve(remote) {
        Ok(addresses) => addresses,
        Err(error) => {
            report.add(Finding::failed(
                Step::Address,
                format!("'{}' cannot be resolved: {error}", remote.host),
                "check the name, /etc/hosts and the name servers of this node, or give an address",
            ));
            return None;
        }
    };
    let tried: Vec<(SocketAddr, io::Result<Duration>)> = addresses
        .into_iter()
        .map(|address| (address, api::round_trip(runtime, address, ROUND_TRIPS)))
        .collect();
    let reached = tried.iter().find(|(_, result)| result.is_ok());
    for (address, result) in &tried {
        report.add(match result {
            Ok(time) => {
                let milliseconds = time.as_secs_f64() * 1e3;
                let text = format!("{address} answers, round trip {milliseconds:.2} ms");
                Finding::ok(Step::Address, text)
            }
            Err(error) => {
                let (text, advice) = unreachable(*address, error);
                match reached {
                    Some(_) => Finding::worse(Step::Address, text, advice),
                    None => Finding::failed(Step::Address, text, advice),
                }
            }
        });
    }
    reached.map(|(address, _)| *address)
}

fn unreachable(address: SocketAddr, error: &io::Error) -> (String, &'static str) {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => (
            format!("{address} refuses the connection: no program listens there"),
            "check host and port, and whether pveproxy runs on the target",
        ),
        io::ErrorKind::TimedOut => (
            format!("{address} does not answer"),
            "check the address, and open the port in every firewall between the nodes",
        ),
        _ => (
            format!("{address} cannot be reached: {error}"),
            "check the routes of this node, or remove the address from the name",
        ),
    }
}

/// The resolver has no time limit of its own.
fn resolve(remote: &Remote) -> io::Result<Vec<SocketAddr>> {
    let (sender, receiver) = channel();
    let name = (remote.host.clone(), remote.port);
    thread::spawn(move || {
        let resolved = name.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let _ = sender.send(resolved);
    });
    let resolved = receiver
        .recv_timeout(RESOLVER_TIMEOUT)
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        // The resolver reports a name without an address if it cannot open a file or a socket.
        .map_err(|error| File::open("/").err().unwrap_or(error))?;
    match resolved.is_empty() {
        true => Err(io::Error::other("the name has no address")),
        false => Ok(resolved),
    }
}

fn check_tls(api: &Api, remote: &Remote, report: &mut Report) -> bool {
    let agreed = match api.probe() {
        Ok(agreed) => agreed,
        Err(error) => {
            let (text, advice) = tls_failure(api, remote, &error);
            report.add(Finding::failed(Step::Tls, text, advice));
            return false;
        }
    };
    report.add(Finding::ok(
        Step::Tls,
        format!("agreed on {}", agreed.cipher),
    ));
    if let Some(warning) = agreed.warning {
        report.add(Finding::worse(
            Step::Tls,
            warning,
            "allow TLS 1.3 at the target: see DISABLE_TLS_1_3 in its /etc/default/pveproxy",
        ));
    }
    let shown = agreed
        .fingerprint
        .as_ref()
        .map_or("unknown".to_owned(), Fingerprint::to_string);
    report.add(match remote.fingerprint {
        Some(_) => Finding::ok(
            Step::Tls,
            format!("the certificate has the given fingerprint {shown}"),
        ),
        None => Finding::ok(
            Step::Tls,
            format!("a CA of this node has issued the certificate for the target; its fingerprint is {shown}"),
        ),
    });
    true
}

fn tls_failure(api: &Api, remote: &Remote, error: &ApiError) -> (String, String) {
    match (error, &remote.fingerprint) {
        (ApiError::Tls(TlsError::Untrusted { .. }), None) => {
            let text = error.to_string();
            match api.presented_fingerprint() {
                Ok(presented) => (
                    text,
                    format!(
                        "if 'pvenode cert info' on the target shows the fingerprint {presented} too, add fingerprint={presented}"
                    ),
                ),
                Err(_) => (text, FINGERPRINT_ADVICE.to_owned()),
            }
        }
        (ApiError::Tls(TlsError::Mismatch(mismatch)), _) => (
            error.to_string(),
            format!(
                "if 'pvenode cert info' on the target shows {}, the certificate was renewed: use the new fingerprint. Otherwise another machine answers: do not send the token to it",
                mismatch.actual
            ),
        ),
        (ApiError::Tls(TlsError::Fingerprint(_)), _) => {
            (error.to_string(), FINGERPRINT_ADVICE.to_owned())
        }
        _ => (
            format!("no TLS connection: {error}"),
            "check that pveproxy answers at this port, and its TLS settings in /etc/default/pveproxy".to_owned(),
        ),
    }
}

/// Checks the token and the clock, and finds the node's name.
pub(super) fn identify(api: &Api, arguments: &Check, report: &mut Report) -> Option<Target> {
    let version = match api.get("/version") {
        Ok(version) => version,
        Err(error) => {
            let (text, advice) = match error.status() {
                Some(401) => (
                    format!("the target refuses the token: {error}"),
                    "check user, realm, name and secret of the token, and whether it has expired: 'pveum user token list USER' on the target",
                ),
                _ => (
                    format!("the API does not answer as expected: {error}"),
                    "check pveproxy and pvedaemon on the target",
                ),
            };
            report.add(Finding::failed(Step::Api, text, advice));
            return None;
        }
    };
    report.add(Finding::ok(Step::Api, "the token is valid"));
    let text = version.data.get("version").and_then(Value::as_str);
    report.add(version::judged(text.unwrap_or_default()));
    check_clock(&version, report);
    node_name(api, arguments, report).map(|node| Target { node })
}

fn check_clock(answer: &Answer, report: &mut Report) {
    let Some(date) = answer.date else {
        return;
    };
    let now = SystemTime::now();
    let difference = match now.duration_since(date) {
        Ok(behind) => behind,
        Err(error) => error.duration(),
    };
    let text = format!("the clocks differ by {} s", difference.as_secs());
    let advice = "synchronize both nodes: see chrony in the manual of Proxmox VE";
    report.add(if difference > CLOCK_LIMIT {
        Finding::failed(Step::Api, text, advice)
    } else if difference > CLOCK_WARNING {
        Finding::worse(Step::Api, text, advice)
    } else {
        Finding::ok(Step::Api, "the clocks agree")
    });
}

/// The name of the node that the remote's host is: the worker runs there.
fn node_name(api: &Api, arguments: &Check, report: &mut Report) -> Option<String> {
    let found = api.get("/cluster/status").ok().and_then(|status| {
        let entries = status.data.as_array()?.clone();
        entries.into_iter().find_map(|entry| {
            let is_node = entry.get("type")?.as_str()? == "node";
            let local = entry.get("local").is_some_and(is_true);
            (is_node && local).then(|| entry.get("name")?.as_str().map(str::to_owned))?
        })
    });
    match (found, &arguments.node) {
        (Some(found), Some(wanted)) if found != *wanted => {
            report.add(Finding::failed(
                Step::Api,
                format!("the host is node '{found}', and not node '{wanted}'"),
                format!("give the address of node '{wanted}' as host=..."),
            ));
            None
        }
        (Some(found), _) => Some(found),
        // The privilege is missing, which is reported with the others.
        (None, Some(wanted)) => Some(wanted.clone()),
        (None, None) => Some("localhost".to_owned()),
    }
}

/// A flag of Proxmox VE.
pub(super) fn is_true(flag: &Value) -> bool {
    match flag {
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_u64() == Some(1),
        Value::String(text) => text == "1",
        _ => false,
    }
}

/// The VMID of the tunnel, which must be free at the target.
#[derive(Debug, Clone, Copy)]
pub(super) enum WantedVmid<'a> {
    /// The one of `--target-vmid`.
    Given(u32),
    /// That of the guest, which a migration keeps if it requests no other one.
    OfGuest(&'a Guest),
    /// Any one: no guest was given.
    Any,
}

/// A free VMID for the tunnel. None if the wanted one is not free: a migration would be refused.
pub(super) fn free_vmid(api: &Api, wanted: WantedVmid<'_>, report: &mut Report) -> Option<u32> {
    let (vmid, text, advice) = match wanted {
        WantedVmid::Any => return any_free_vmid(api, report),
        WantedVmid::Given(vmid) => (
            vmid,
            format!("the VMID {vmid} is not free at the target"),
            "choose another one with --target-vmid, here and for the migration".to_owned(),
        ),
        WantedVmid::OfGuest(guest) => {
            let (tool, vmid) = (guest.tool(), guest.vmid());
            (
                vmid,
                format!("the VMID {vmid}, which the guest would keep, is not free at the target"),
                format!(
                    "choose another one, here with --target-vmid: '{tool} remote-migrate {vmid} OTHER ...' moves the guest to the VMID OTHER"
                ),
            )
        }
    };
    match is_free(api, vmid) {
        Ok(true) => Some(vmid),
        Ok(false) => {
            report.add(Finding::failed(Step::Api, text, advice));
            None
        }
        Err(error) => no_vmid(&error, report),
    }
}

fn any_free_vmid(api: &Api, report: &mut Report) -> Option<u32> {
    // Two checks at the same time shall not choose the same one.
    let mut offset = std::process::id();
    for _ in 0..VMID_ATTEMPTS {
        let vmid = VMIDS.start + offset % (VMIDS.end - VMIDS.start);
        match is_free(api, vmid) {
            Ok(true) => return Some(vmid),
            Ok(false) => offset += 1,
            Err(error) => return no_vmid(&error, report),
        }
    }
    report.add(Finding::failed(
        Step::Api,
        "no free VMID was found: every one that was tried is in use",
        "give one with --target-vmid",
    ));
    None
}

fn no_vmid(error: &ApiError, report: &mut Report) -> Option<u32> {
    let reason = error.detailed();
    let advice = advice::for_refused_request(&reason);
    let text = format!("no free VMID was found: {reason}");
    report.add(Finding::failed(Step::Api, text, advice));
    None
}

/// Whether no guest of the target's cluster has this VMID.
pub(super) fn is_free(api: &Api, vmid: u32) -> Result<bool, ApiError> {
    match api.get(&format!("/cluster/nextid?vmid={vmid}")) {
        Ok(_) => Ok(true),
        Err(error) if error.status() == Some(400) => Ok(false),
        Err(error) => Err(error),
    }
}
