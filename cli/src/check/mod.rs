//! `check`: whether, and how fast, a migration to a remote would run, before a guest moves.
//!
//! The steps are in the order in which a migration would fail: this node (`node`), the remote's
//! address and API (`target`), the privileges of the token (`privileges`), storages and bridges
//! (`resources`), and a tunnel (`tunnel`) over which the planes are measured (`speed`, `measurement`, `rate`,
//! and `cause` for a failure). Each reports what it finds (`finding`, `report`, `conclusion`) with what to do (`advice`).

mod advice;
mod api;
mod argument;
mod cause;
mod cluster;
mod conclusion;
mod connector;
mod connector_log;
mod finding;
mod folder;
mod guest;
mod id_map;
mod interrupt;
mod measurement;
mod negotiation;
mod node;
mod obstacles;
mod offer;
mod options;
mod privileges;
mod rate;
mod remote;
mod report;
mod requirement;
mod resources;
mod route;
mod speed;
mod tags;
mod target;
mod tunnel;
mod version;

use crate::arguments::Check;
use crate::configuration_file::FileError;
use crate::output;
use api::Api;
use finding::{Finding, Outcome, Step};
use guest::Guest;
use id_map::IdMap;
use interrupt::Interrupt;
use nix::sys::prctl::set_dumpable;
use pve_tunnel::configuration::{Configuration, SourceSelection};
use remote::Remote;
use report::{Report, Style};
use requirement::{Needed, Purpose};
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use target::{Target, WantedVmid};

/// Runs the check and prints what it finds.
pub(crate) fn run(arguments: &Check) -> ExitCode {
    // SIGQUIT would write a core, which would contain the token.
    if let Err(error) = set_dumpable(false) {
        return fail(format_args!("the token cannot be protected: {error}"));
    }
    let configuration = node::read_configuration(&arguments.configuration);
    let remote = match argument::remote(&arguments.to, configuration.as_ref()) {
        Ok(remote) => remote,
        Err(error) => return fail(error),
    };
    let guest = match arguments
        .vmid
        .map(|vmid| Guest::read(&arguments.guests, vmid))
    {
        None => None,
        Some(Ok(guest)) => Some(guest),
        Some(Err(reason)) => return fail(format_args!("--vmid: {reason}")),
    };
    let (storages, bridges) = match maps(arguments) {
        Ok(maps) => maps,
        Err(error) => return fail(error),
    };
    let style = match (arguments.json, is_colored()) {
        (true, _) => Style::Json,
        (false, true) => Style::Colored,
        (false, false) => Style::Plain,
    };
    let secret = remote.token.as_ref().map(|token| token.secret().to_owned());
    let mut report = Report::new(&remote.host, secret.as_deref(), style);
    report.announce(&format!(
        "pve-tunnel {} checks migrations from this node to {remote:?}.",
        env!("CARGO_PKG_VERSION")
    ));
    let mut check = Run {
        arguments,
        remote: &remote,
        needed_storages: storages.needed(guest.as_ref().map(Guest::storages)),
        needed_bridges: bridges.needed(
            guest
                .as_ref()
                .map(|guest| guest.bridges().map(|(_, _, bridge)| bridge).collect()),
        ),
        guest,
        storages,
        bridges,
        report: &mut report,
    };
    let interrupt = check.all_steps(configuration.as_ref());
    let written = report.finish();
    if let Err(error) = &written {
        output::warn_unwritten(error);
    }
    if let Some(interrupt) = interrupt {
        interrupt.end_process();
    }
    match written {
        Ok(()) => report.outcome.exit_code(),
        Err(_) => Outcome::Failed.exit_code(),
    }
}

/// Whether standard output is a terminal that shows colours, and they are wanted (<https://no-color.org>).
fn is_colored() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// Wrong arguments, and what prevents every check: as a check that has failed.
fn fail(error: impl Display) -> ExitCode {
    output::warn(error);
    Outcome::Failed.exit_code()
}

/// Of storages and of bridges.
fn maps(arguments: &Check) -> Result<(IdMap, IdMap), String> {
    let storages = IdMap::parse(&arguments.target_storage)
        .map_err(|error| format!("--target-storage: {error}"))?;
    if storages.is_identity() {
        return Err(
            "--target-storage: 'qm remote-migrate' accepts '1' only for bridges; name the storages of the target"
                .to_owned(),
        );
    }
    let bridges = IdMap::parse(&arguments.target_bridge)
        .map_err(|error| format!("--target-bridge: {error}"))?;
    Ok((storages, bridges))
}

/// One run of the check.
struct Run<'a> {
    arguments: &'a Check,
    remote: &'a Remote,
    guest: Option<Guest>,
    storages: IdMap,
    bridges: IdMap,
    /// Those of the target that the migration would use.
    needed_storages: Vec<String>,
    needed_bridges: Vec<String>,
    report: &'a mut Report,
}

impl Run<'_> {
    /// Every step, until one fails that the next ones depend on. Returns the watch for signals of the last
    /// step; before it, a signal ends the process at once, because there is nothing to clean up.
    fn all_steps(
        &mut self,
        configuration: Result<&Configuration, &FileError>,
    ) -> Option<Interrupt> {
        node::check_activation(
            self.arguments.root.as_deref(),
            &self.arguments.configuration,
            self.report,
        );
        let selection = self.selection(configuration);
        let api = target::reach(self.remote, self.report)?;
        if self.remote.token.is_none() {
            self.report.add(Finding::worse(
                Step::Api,
                "no API token was given, so nothing beyond TLS was checked",
                "give the remote as 'qm remote-migrate' takes it: --to 'host=...,apitoken=...,fingerprint=...', or --to @FILE",
            ));
            return None;
        }
        let target = target::identify(&api, self.arguments, self.report)?;
        folder::report_earlier_checks(&api, self.remote, self.report);
        let selection = selection?;
        let vmid = self.vmid_at_target(&api);
        if let Some(guest) = &self.guest {
            obstacles::check(guest, self.report);
            // Without resolving the link that the folder of the guests is: it is in the cluster's folder.
            let cluster = self.arguments.guests.parent().unwrap_or(Path::new("/"));
            cluster::check(guest, cluster, self.report);
        }
        let missing = self.check_privileges(&api, &selection);
        self.check_resources(&api, &target, missing);
        if self.arguments.read_only {
            self.report
                .announce("--read-only: no tunnel is opened, so planes and speed are not checked.");
            return None;
        }
        if self.report.has_failed() {
            self.report
                .announce("No tunnel is opened, because a migration would fail before.");
            return None;
        }
        self.check_tunnel(&api, &target, &selection, vmid?)
    }

    fn selection(
        &mut self,
        configuration: Result<&Configuration, &FileError>,
    ) -> Option<SourceSelection> {
        let call = node::Call {
            remote: &self.remote.host,
            migration_type: self.arguments.migration_type,
            network: self.arguments.network.as_deref(),
        };
        node::check_configuration(configuration, &call, self.report)
    }

    /// The VMID of the tunnel.
    fn vmid_at_target(&mut self, api: &Api) -> Option<u32> {
        let wanted = match (self.arguments.target_vmid, &self.guest) {
            (Some(vmid), _) => WantedVmid::Given(vmid),
            (None, Some(guest)) => WantedVmid::OfGuest(guest),
            (None, None) => WantedVmid::Any,
        };
        target::free_vmid(api, wanted, self.report)
    }

    /// The privileges that the token lacks; none if they cannot be read.
    fn check_privileges(&mut self, api: &Api, selection: &SourceSelection) -> Option<Vec<Needed>> {
        let purpose = Purpose {
            // A migration will use the guest's own VMID, if no other one was requested. That of the tunnel
            // is another one at each check.
            vmid: self.arguments.target_vmid.or(self.arguments.vmid),
            storages: self.needed_storages.clone(),
            bridges: self.needed_bridges.clone(),
            bridge_map: self.bridges.clone(),
            migration_type: selection.migration_type,
            configured: selection.may_be_configured_at_target(),
            network: selection.network.clone(),
            guest: self.guest.as_ref(),
        };
        privileges::check(api, self.remote, &purpose, self.report)
    }

    fn check_resources(&mut self, api: &Api, target: &Target, missing: Option<Vec<Needed>>) {
        let (node, guest) = (&target.node, self.guest.as_ref());
        let storages = (self.needed_storages.as_slice(), &self.storages);
        resources::check_storages(api, node, storages, guest, self.report);
        // The worker checks bridges when it opens a tunnel, also those that the configuration of the
        // network does not contain.
        let Some(missing) = missing.filter(|_| self.arguments.read_only) else {
            return;
        };
        let may_use = |bridge: &&str| {
            let path = requirement::bridge_path(bridge);
            !missing
                .iter()
                .any(|each| Path::new(&each.path).starts_with(&path))
        };
        let bridges = self.needed_bridges.iter().map(String::as_str);
        let bridges: Vec<&str> = bridges.filter(may_use).collect();
        resources::check_bridges(api, node, &bridges, self.report);
    }

    fn check_tunnel(
        &mut self,
        api: &Api,
        target: &Target,
        selection: &SourceSelection,
        vmid: u32,
    ) -> Option<Interrupt> {
        let interrupt = match Interrupt::watch(Box::new(self.report.notifier())) {
            Ok(interrupt) => interrupt,
            Err(error) => {
                self.report.add(Finding::failed(
                    Step::Tunnel,
                    format!("signals cannot be blocked, so a signal could leave a guest: {error}"),
                    "check the limits of this node",
                ));
                return None;
            }
        };
        let request = tunnel::Request {
            remote: self.remote,
            node: &target.node,
            kind: self.guest.as_ref().map_or("qemu", Guest::api_name),
            vmid,
            storages: &self.needed_storages,
            bridges: &self.needed_bridges,
            selection,
            seconds: self.arguments.seconds,
        };
        tunnel::check(api, &request, &interrupt, self.report);
        if let Some(guest) = &self.guest {
            guest.estimate(self.report);
        }
        Some(interrupt)
    }
}
