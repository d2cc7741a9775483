//! What the files of this node's cluster contain about the guest: high availability (HA) and replication.
//!
//! `qm` and `pct remote-migrate` refuse a guest that has a section in the file of HA resources, whatever its state
//! is (`remote_migrate_vm` in `PVE::API2::Qemu` and `PVE::API2::LXC`), and one that has a replication job, also a
//! disabled one (`PVE::ReplicationConfig::check_for_existing_jobs`). For both, a missing file is an empty one.

use super::advice::Advice;
use super::finding::{Finding, Step};
use super::guest::{Guest, Kind};
use super::report::Report;
use crate::opened_file;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Largest file that the cluster's file system stores, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The file of HA resources, in the folder of the cluster.
const HA: &str = "ha/resources.cfg";

/// The file of replication jobs.
const REPLICATION: &str = "replication.cfg";

/// Reports whether HA manages the guest, and its replication jobs. `folder` is that of the cluster.
pub(super) fn check(guest: &Guest, folder: &Path, report: &mut Report) {
    let (ha, replication) = (folder.join(HA), folder.join(REPLICATION));
    report.add(match content(&ha) {
        Ok(text) => in_ha(guest, &text),
        Err(error) => unread(
            "whether HA manages the guest",
            "ha-manager config",
            &ha,
            &error,
        ),
    });
    match content(&replication) {
        Ok(text) => in_replication(guest, &text)
            .into_iter()
            .for_each(|finding| report.add(finding)),
        Err(error) => report.add(unread(
            "whether the guest has replication jobs",
            "pvesr list",
            &replication,
            &error,
        )),
    }
}

/// What is not UTF-8 can only be in comments.
fn content(path: &Path) -> io::Result<String> {
    match opened_file::read(path, MAX_FILE) {
        Ok(content) if content.len() as u64 > MAX_FILE => Err(io::Error::other(format!(
            "it has more than {MAX_FILE} bytes"
        ))),
        Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// `question` and `command`: what is not known now, and what shows it.
fn unread(question: &str, command: &str, path: &Path, error: &io::Error) -> Finding {
    let advice = match error.kind() {
        ErrorKind::PermissionDenied => "run the check as root".to_owned(),
        _ => format!("check that pve-cluster runs; '{command}' shows it, too"),
    };
    let text = format!(
        "it is not known {question}: cannot read {}: {error}",
        path.display()
    );
    Finding::worse(Step::Guest, text, advice)
}

fn in_ha(guest: &Guest, text: &str) -> Finding {
    let kind = match guest.kind() {
        Kind::Qemu => "vm",
        Kind::Lxc => "ct",
    };
    let vmid = guest.vmid().to_string();
    let is_managed = sections(text)
        .iter()
        .any(|section| section.kind == kind && section.name == vmid);
    match is_managed {
        false => Finding::ok(Step::Guest, "HA does not manage the guest"),
        true => Finding::failed(
            Step::Guest,
            "HA manages the guest",
            Advice::with_command(
                "take it out of HA before the migration, which does not stop it",
                format!("ha-manager remove {kind}:{vmid}"),
            ),
        ),
    }
}

fn in_replication(guest: &Guest, text: &str) -> Vec<Finding> {
    let jobs = sections(text).into_iter().filter_map(|section| {
        let (vmid, number) = section.name.split_once('-')?;
        let (vmid, number): (u32, u32) = (vmid.parse().ok()?, number.parse().ok()?);
        // The only kind.
        let is_own = section.kind == "local" && vmid == guest.vmid();
        is_own.then(|| job(&format!("{vmid}-{number}"), &section))
    });
    let jobs: Vec<Finding> = jobs.collect();
    match jobs.is_empty() {
        true => vec![Finding::ok(Step::Guest, "the guest has no replication job")],
        false => jobs,
    }
}

fn job(id: &str, section: &Section<'_>) -> Finding {
    let is_removed = section.keys.contains(&"remove_job");
    let (text, advice) = match is_removed {
        false => (
            format!("the guest has the replication job {id}"),
            Advice::with_command(
                "delete it before the migration, and wait until 'pvesr list' does not contain it",
                format!("pvesr delete {id}"),
            ),
        ),
        true => (
            format!("the guest has the replication job {id}, which is being deleted"),
            "wait until 'pvesr list' does not contain it".into(),
        ),
    };
    Finding::failed(Step::Guest, text, advice)
}

/// A section of a file in the format of `PVE::SectionConfig`.
struct Section<'a> {
    kind: String,
    name: &'a str,
    keys: Vec<&'a str>,
}

/// A section begins with `kind: name`, and ends at an empty line.
fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections = Vec::new();
    let mut current: Option<Section<'_>> = None;
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        match &mut current {
            _ if line.is_empty() => sections.extend(current.take()),
            Some(section) => section.keys.extend(line.split_whitespace().next()),
            None => current = header(line),
        }
    }
    sections.extend(current);
    sections
}

fn header(line: &str) -> Option<Section<'_>> {
    let (kind, name) = line.rsplit_once(':')?;
    let name = name.trim();
    let is_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    (is_word(kind) && is_word(name)).then(|| Section {
        kind: kind.to_lowercase(),
        name,
        keys: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    fn shown(finding: &Finding) -> String {
        let advice = finding.advice.as_ref();
        let advice = advice.map_or(String::new(), |advice| format!(" -> {advice}"));
        format!("{:?}: {}{advice}", finding.outcome, finding.text)
    }

    #[test]
    fn a_section_for_the_guest_means_that_ha_manages_it() {
        let managed = "Failed: HA manages the guest -> take it out of HA before the migration, which does not stop it: ha-manager remove vm:200";
        let not = "Ok: HA does not manage the guest";
        #[rustfmt::skip] // One row a line.
        let table = [
            ("", not),
            ("vm: 200\n", managed),
            ("vm:200\n\tstate disabled\n", managed),
            ("VM: 200 \n\tstate ignored\n", managed),
            ("ct: 7\n\tgroup a\n\n# \u{fffd}\nvm: 200\n", managed),
            ("ct: 200\n", not),
            ("vm: 2000\n\tcomment vm: 200\n", not),
            ("#vm: 200\n", not),
            // Without an empty line, it belongs to the section before.
            ("vm: 7\nvm: 200\n", not),
        ];
        for (text, expected) in table {
            let guest = Guest::parse(Kind::Qemu, 200, "");
            assert_eq!(shown(&in_ha(&guest, text)), expected, "{text}");
        }
        let container = Guest::parse(Kind::Lxc, 200, "");
        let found = shown(&in_ha(&container, "ct: 200\n"));
        assert!(found.ends_with(": ha-manager remove ct:200"), "{found}");
    }

    #[test]
    fn each_replication_job_is_found() {
        let delete = |id: &str| {
            format!(
                "Failed: the guest has the replication job {id} -> delete it before the migration, and wait until 'pvesr list' does not contain it: pvesr delete {id}"
            )
        };
        let no = "Ok: the guest has no replication job";
        let removed = "Failed: the guest has the replication job 200-0, which is being deleted -> wait until 'pvesr list' does not contain it";
        #[rustfmt::skip] // One row a line.
        let table = [
            ("", no.to_owned()),
            ("local: 200-0\n\ttarget b\n\tdisable 1\n", delete("200-0")),
            ("local: 0200-01\n\ttarget b\n", delete("200-1")),
            ("local: 200-0\n\ttarget b\n\nlocal: 20-0\n\ttarget b\n\nlocal: 200-1\n\ttarget c\n", format!("{}\n{}", delete("200-0"), delete("200-1"))),
            ("local: 200-0\n\ttarget b\n\tremove_job full\n", removed.to_owned()),
            ("local: 2000-0\n\tcomment 200-0\n", no.to_owned()),
            ("other: 200-0\n\nlocal: 200\n", no.to_owned()),
        ];
        for (text, expected) in table {
            let guest = Guest::parse(Kind::Lxc, 200, "");
            let found: Vec<String> = in_replication(&guest, text).iter().map(shown).collect();
            assert_eq!(found.join("\n"), expected, "{text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.cfg");
        assert_eq!(content(&path).unwrap(), "", "a missing file");
        fs::write(&path, b"# \xff\nvm: 200\n").unwrap();
        assert_eq!(content(&path).unwrap(), "# \u{fffd}\nvm: 200\n");
        fs::write(&path, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
        let error = content(&path).unwrap_err();
        assert_eq!(
            shown(&unread(
                "whether it is",
                "pvesr list",
                Path::new("/a/b"),
                &error
            )),
            "Worse: it is not known whether it is: cannot read /a/b: it has more than 1048576 bytes -> check that pve-cluster runs; 'pvesr list' shows it, too"
        );
        let denied = ErrorKind::PermissionDenied.into();
        let found = shown(&unread("x", "y", Path::new("/a"), &denied));
        assert!(found.ends_with("-> run the check as root"), "{found}");
    }
}
