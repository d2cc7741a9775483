//! dpkg: what it diverts, what it has installed, and the trigger on which daemons reload.

use super::Node;
use super::component::{Component, DISTRIB, PACKAGE, RELOAD_TRIGGER};
use super::program::{ProgramError, command, one_line, run, run_checked};
use super::steps::Diversion;
use serde::Serialize;
use std::process::Command;
use std::time::Duration;

/// For what only looks into dpkg's database or writes a line there.
const DATABASE_LIMIT: Duration = Duration::from_secs(60);

/// For all triggers that are pending: packages' scripts, which restart services.
const TRIGGERS_LIMIT: Duration = Duration::from_secs(600);

/// A package that dpkg has installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: String,
}

/// How the daemons hear of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// The trigger has been processed: who is interested has reloaded.
    Done,
    /// dpkg is running, for us or for somebody else, and will process it at its end.
    Deferred,
}

pub(super) fn diversion(node: &Node, component: Component) -> Result<Diversion, ProgramError> {
    let ask = |question: &str, path: &str| {
        let asked = run_checked(divert(node).args([question, path]), DATABASE_LIMIT)?;
        Ok(asked.stdout.trim_end().to_owned())
    };
    let distrib = component.distrib();
    let mut by = ask("--listpackage", component.path())?;
    if by.is_empty() {
        // Something else may be diverted to where we would divert to.
        by = ask("--listpackage", &distrib)?;
    }
    if by.is_empty() {
        return Ok(Diversion::None);
    }
    let to = ask("--truename", component.path())?;
    if by == PACKAGE && to == distrib {
        return Ok(Diversion::Ours);
    }
    Ok(Diversion::Foreign { by, to })
}

pub(super) fn add_diversion(node: &Node, component: Component) -> Result<(), ProgramError> {
    let distrib = format!("{}{DISTRIB}", component.path());
    let add = [
        "--no-rename",
        "--divert",
        &distrib,
        "--add",
        component.path(),
    ];
    run_checked(
        divert(node).args(["--package", PACKAGE]).args(add),
        DATABASE_LIMIT,
    )?;
    Ok(())
}

pub(super) fn remove_diversion(node: &Node, component: Component) -> Result<(), ProgramError> {
    let remove = ["--no-rename", "--remove", component.path()];
    run_checked(
        divert(node).args(["--package", PACKAGE]).args(remove),
        DATABASE_LIMIT,
    )?;
    Ok(())
}

fn divert(node: &Node) -> Command {
    program("dpkg-divert", node)
}

/// One of dpkg's programs, with the node's database.
fn program(name: &str, node: &Node) -> Command {
    let mut program = command(name);
    if !node.is_this_machine() {
        program.arg("--root").arg(node.root());
    }
    program
}

/// The package of the stock file, if it is installed.
pub(super) fn package(node: &Node, component: Component) -> Result<Option<Package>, ProgramError> {
    let mut query = program("dpkg-query", node);
    query.args(["--show", "--showformat", "${db:Status-Status} ${Version}"]);
    let asked = run(query.arg(component.package()), DATABASE_LIMIT)?;
    // It fails for a package that it has never heard of.
    let version = asked.stdout.strip_prefix("installed ");
    Ok(version.map(|version| Package {
        name: component.package(),
        version: version.to_owned(),
    }))
}

/// Does what every package of Proxmox VE does when it has changed a module that daemons have loaded.
pub(super) fn reload(node: &Node) -> Result<Reload, ProgramError> {
    let mut trigger = program("dpkg-trigger", node);
    trigger.arg("--no-await");
    if !node.maintainer_script {
        trigger.arg(format!("--by-package={PACKAGE}"));
    }
    run_checked(trigger.arg(RELOAD_TRIGGER), DATABASE_LIMIT)?;
    if node.maintainer_script {
        return Ok(Reload::Deferred);
    }

    let mut process = program("dpkg", node);
    process.args(["--triggers-only", "--pending"]);
    let processed = run(&mut process, TRIGGERS_LIMIT)?;
    if processed.status.success() {
        return Ok(Reload::Done);
    }
    if processed.stderr.contains("locked by another process") {
        return Ok(Reload::Deferred);
    }
    Err(ProgramError::Failed {
        program: "dpkg --triggers-only --pending".to_owned(),
        status: processed.status,
        said: one_line(&processed.stderr),
    })
}
