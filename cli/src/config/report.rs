//! The text that `config` prints without `--json`.

use super::{ConfigReport, Migration, NetworkSummary, OfType};
use crate::text::wrapped;
use pve_tunnel::configuration::{Origin, Setting};
use pve_tunnel::plan::{self, Node, Privilege};
use pve_tunnel::plane::{MigrationType, Plane};
use std::fmt;

impl fmt::Display for ConfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        if !self.exists {
            let text = format!(
                "There is no {file}, so the defaults apply: migrations are encrypted, and use the \
                 network between the nodes' own addresses."
            );
            f.write_str(&wrapped("", &text))?;
        } else {
            writeln!(f, "{file} is valid")?;
        }
        for network in &self.networks {
            write!(f, "{network}")?;
        }
        if let Some(line) = self.policy_line {
            let policy = match self.require_encryption {
                true => "encryption is required",
                false => "encryption is not required",
            };
            writeln!(f, "{}policy: {policy}", at(line))?;
        }
        match &self.migration {
            Some(migration) => write!(f, "\n{migration}"),
            None => Ok(()),
        }
    }
}

fn at(line: usize) -> String {
    format!("  line {line:<4}  ")
}

impl fmt::Display for NetworkSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remotes = match self.remotes.is_empty() {
            true => "any target, by its ID only".to_owned(),
            false => self.remotes.join(", "),
        };
        let types: Vec<String> = self
            .allow
            .iter()
            .map(|kind| match self.allow.len() > 1 && *kind == self.default {
                true => format!("{} (default)", kind.name()),
                false => kind.name().to_owned(),
            })
            .collect();
        let text = format!(
            "network '{}' for {remotes}; allows {}",
            self.id,
            types.join(", ")
        );
        f.write_str(&wrapped(&at(self.line), &text))
    }
}

impl fmt::Display for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote = self.remote.as_deref().unwrap_or("any target");
        let requests = match self.remote {
            Some(_) => "requests neither type nor network",
            None => "requests this network by its ID",
        };
        let first = format!("A migration to {remote} that {requests}:");
        f.write_str(&wrapped("", &first))?;
        if let Some(reason) = &self.reason {
            f.write_str(&wrapped("  ", reason))?;
        }
        if let Some(refused) = &self.refused {
            f.write_str(&wrapped("  ", &format!("is refused: {refused}")))?;
        }
        for setting in &self.settings {
            let value = match &setting.value {
                Some(value) => value,
                None => absent(setting),
            };
            let origin = match &setting.origin {
                Origin::Default => "default".to_owned(),
                Origin::File { line, .. } => format!("line {line}"),
            };
            writeln!(f, "    {:<19} {value:<26}  {origin}", label(setting.key))?;
        }
        writeln!(f, "A migration that requests a type:")?;
        self.types.iter().try_for_each(|each| each.fmt(f))
    }
}

/// The key, except where its name needs the file as context.
fn label(key: &'static str) -> &'static str {
    match key {
        "default" => "type",
        "source" => "network here",
        "target" => "network at target",
        "public" => "public addresses",
        "gateway" => "default gateway",
        other => other,
    }
}

/// What applies if there is no value.
fn absent(setting: &Setting) -> &'static str {
    match setting.key {
        "source" => "this node's own address",
        "lanes" => "1; plane websocket: 3",
        "threads" => "a quarter of the cores",
        _ => "the target's own address",
    }
}

impl fmt::Display for OfType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.migration_type;
        let first = format!("    {:<9} ", kind.name());
        if let Some(refused) = &self.refused {
            return f.write_str(&wrapped(&first, &format!("refused: {refused}")));
        }
        let (planes, clear) = match (self.planes.as_slice(), kind) {
            ([plane], MigrationType::Insecure) => {
                let plane = plane.name();
                (
                    format!("plane {plane}; refused if the target does not offer it"),
                    ", CLEAR TEXT",
                )
            }
            (planes, _) => (alternatives(planes), ""),
        };
        let privileges = match self.privileges.as_slice() {
            [] => "no privilege beyond those of every migration".to_owned(),
            privileges => {
                let needed: Vec<String> = privileges.iter().map(needed).collect();
                format!("needs {}", needed.join(", "))
            }
        };
        let otherwise = self.network_at_target.as_ref().map(|network| {
            let without = plan::privileges(kind, Some(network), false);
            let on = vec![Node::Target];
            let needed: Vec<String> = without
                .into_iter()
                .map(|each| {
                    needed(&Privilege {
                        on: on.clone(),
                        ..each
                    })
                })
                .collect();
            let needed = needed.join(", ");
            format!("; if the target's file has no network '{network}': {needed}")
        });
        let otherwise = otherwise.unwrap_or_default();
        let text = format!("{planes}{clear}; {privileges}{otherwise}");
        f.write_str(&wrapped(&first, &text))
    }
}

fn alternatives(planes: &[Plane]) -> String {
    let names: Vec<&str> = planes.iter().map(|plane| plane.name()).collect();
    format!("plane {}, as the target offers", names.join(" or "))
}

fn needed(privilege: &Privilege) -> String {
    let nodes: Vec<&str> = privilege
        .on
        .iter()
        .map(|node| match node {
            Node::Source => "this node",
            Node::Target => "the target",
        })
        .collect();
    format!(
        "{} on {} at {}",
        privilege.privilege,
        privilege.path,
        nodes.join(" and ")
    )
}
