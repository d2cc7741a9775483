//! dpkg: diversions, installed packages, and the trigger on which the daemons reload.

use super::Node;
use super::component::{Component, DISTRIB, PACKAGE, RELOAD_TRIGGER};
use super::lock::{FRONTEND_LOCKED, lock_database};
use super::steps::Diversion;
use crate::program::{ProgramError, clean_command, one_line, run, run_checked};
use serde::Serialize;
use std::process::Command;
use std::time::Duration;

/// Time limit of programs that only read dpkg's database or write a line to it.
const DATABASE_LIMIT: Duration = Duration::from_secs(60);

/// Time limit of processing all pending triggers. This runs scripts of packages, which restart
/// services.
const TRIGGERS_LIMIT: Duration = Duration::from_secs(600);

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Package {
    /// The package's name.
    pub name: &'static str,
    /// The version as dpkg prints it.
    pub version: String,
}

/// When the daemons reload after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// The trigger was processed: the daemons that are interested in it have reloaded.
    Done,
    /// dpkg is running, as the parent of this process or independently, or a program that runs dpkg.
    /// It processes the trigger when it ends.
    Deferred,
}

pub(super) fn diversion(node: &Node, component: Component) -> Result<Diversion, ProgramError> {
    let query = |option: &str, path: &str| {
        let answer = run_checked(divert(node).args([option, path]), DATABASE_LIMIT)?;
        Ok(answer.stdout.trim_end().to_owned())
    };
    let distrib = component.distrib();
    let mut by = query("--listpackage", component.path())?;
    if by.is_empty() {
        // Another file may be diverted to the path that our diversion would use.
        by = query("--listpackage", &distrib)?;
    }
    if by.is_empty() {
        return Ok(Diversion::None);
    }
    let to = query("--truename", component.path())?;
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

/// Returns one of dpkg's programs, to be run with the node's database.
fn program(name: &str, node: &Node) -> Command {
    let mut program = clean_command(name);
    if !node.is_this_machine() {
        program.arg("--root").arg(node.root());
    }
    program
}

/// The package that contains the stock file, if it is installed.
pub(super) fn package(node: &Node, component: Component) -> Result<Option<Package>, ProgramError> {
    let mut query = program("dpkg-query", node);
    query.args(["--show", "--showformat", "${db:Status-Status} ${Version}"]);
    let answer = run(query.arg(component.package()), DATABASE_LIMIT)?;
    // The exit code is not checked: dpkg-query fails if the package is not in its database.
    let version = answer.stdout.strip_prefix("installed ");
    Ok(version.map(|version| Package {
        name: component.package(),
        version: version.to_owned(),
    }))
}

/// Activates the trigger that every package of Proxmox VE activates after a change of a module that
/// daemons have loaded.
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

    // A dpkg that fails does not report in a stable form that another one is running, so the locks
    // decide.
    let Some(_locked) = lock_database(node)? else {
        return Ok(Reload::Deferred);
    };
    let mut process = program("dpkg", node);
    process
        .args(["--triggers-only", "--pending"])
        .env(FRONTEND_LOCKED, "true");
    let processed = run(&mut process, TRIGGERS_LIMIT)?;
    if processed.status.success() {
        return Ok(Reload::Done);
    }
    Err(ProgramError::Failed {
        program: "dpkg --triggers-only --pending".to_owned(),
        status: processed.status,
        stderr: one_line(&processed.stderr),
    })
}
