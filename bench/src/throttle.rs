//! A limit of CPU time for each thread of a process, by control groups. So one thread is the limit of
//! what it does, and not the cores of the machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The period of the limit, in microseconds.
const PERIOD: u32 = 100_000;

/// The groups with the limited threads. Dropping it moves the threads back and removes the groups.
pub struct Throttle {
    hierarchy: Hierarchy,
    root: PathBuf,
    groups: Vec<PathBuf>,
}

/// The controller `cpu` in either version of control groups.
#[derive(Clone, Copy)]
enum Hierarchy {
    V1,
    V2,
}

impl Throttle {
    /// Gives each thread that the processes have now one of `part` parts of a core. The error is the
    /// reason why that is not possible here.
    pub fn threads_of(processes: &[u32], part: u32) -> Result<Self, String> {
        let (hierarchy, mount) = Hierarchy::find()?;
        let failed = |error: io::Error| format!("control groups: {error}");
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-{}-{number}", std::process::id());
        let mut throttle = Self {
            hierarchy,
            root: mount.join(name),
            groups: Vec::new(),
        };
        throttle.create().map_err(failed)?;
        for pid in processes {
            throttle.add(*pid, PERIOD / part).map_err(failed)?;
        }
        Ok(throttle)
    }

    fn create(&self) -> io::Result<()> {
        fs::create_dir(&self.root)?;
        match self.hierarchy {
            Hierarchy::V1 => Ok(()),
            Hierarchy::V2 => fs::write(self.root.join("cgroup.subtree_control"), "+cpu"),
        }
    }

    fn add(&mut self, pid: u32, quota: u32) -> io::Result<()> {
        if let Hierarchy::V2 = self.hierarchy {
            // Threads may only move within the domain of their process.
            fs::write(self.root.join("cgroup.procs"), pid.to_string())?;
        }
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let id = thread?.file_name();
            let group = self.root.join(&id);
            fs::create_dir(&group)?;
            self.groups.push(group.clone());
            let (file, limit) = match self.hierarchy {
                Hierarchy::V1 => {
                    fs::write(group.join("cpu.cfs_period_us"), PERIOD.to_string())?;
                    ("cpu.cfs_quota_us", quota.to_string())
                }
                Hierarchy::V2 => {
                    fs::write(group.join("cgroup.type"), "threaded")?;
                    ("cpu.max", format!("{quota} {PERIOD}"))
                }
            };
            fs::write(group.join(file), limit)?;
            let id = id.into_encoded_bytes();
            fs::write(group.join(self.hierarchy.threads()), id)?;
        }
        Ok(())
    }
}

impl Hierarchy {
    fn find() -> Result<(Self, PathBuf), String> {
        let root = Path::new("/sys/fs/cgroup");
        let v1 = root.join("cpu");
        if v1.join("cpu.cfs_quota_us").exists() || v1.join("tasks").exists() {
            return Ok((Self::V1, v1));
        }
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        match controllers.split_whitespace().any(|name| name == "cpu") {
            true => Ok((Self::V2, root.to_owned())),
            false => Err("needs the controller 'cpu' of control groups".to_owned()),
        }
    }

    /// The file with the threads of a group.
    fn threads(self) -> &'static str {
        match self {
            Self::V1 => "tasks",
            Self::V2 => "cgroup.threads",
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // Threads that have ended are in no group. The processes are moved as a whole, which ends the
        // limits.
        let Some(parent) = self.root.parent() else {
            return;
        };
        for group in &self.groups {
            let threads = fs::read_to_string(group.join(self.hierarchy.threads()));
            for id in threads.unwrap_or_default().lines() {
                let _ = match self.hierarchy {
                    Hierarchy::V1 => fs::write(parent.join("tasks"), id),
                    Hierarchy::V2 => fs::write(self.root.join("cgroup.threads"), id),
                };
            }
            let _ = fs::remove_dir(group);
        }
        if let Hierarchy::V2 = self.hierarchy {
            let processes = fs::read_to_string(self.root.join("cgroup.procs"));
            for id in processes.unwrap_or_default().lines() {
                let _ = fs::write(parent.join("cgroup.procs"), id);
            }
        }
        let _ = fs::remove_dir(&self.root);
    }
}
