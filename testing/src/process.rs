//! Properties of a process from /proc, and signals to it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::process::Command;

/// The highest resident memory of a process so far, in KiB.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The state of a process, as a letter (man 5 proc); none if there is no such process.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The state follows the name, which is in parentheses and may contain parentheses.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process has ended, reaped or not.
pub fn is_gone(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Sends a signal to a process.
pub fn signal(name: &str, pid: u32) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// How often each of these texts is in the writable memory of another process. Requires the right to
/// trace it, which only root has over a process that is not dumpable (ptrace(2)).
pub fn copies_in_memory(pid: u32, texts: &[&[u8]]) -> io::Result<Vec<usize>> {
    let mut found = vec![0; texts.len()];
    visit_writable_memory(pid, |bytes| {
        for (count, text) in found.iter_mut().zip(texts) {
            *count += bytes
                .windows(text.len())
                .filter(|window| window == text)
                .count();
        }
    })?;
    Ok(found)
}

/// Calls `visit` with the content of each writable mapping of a process, one after another. The right
/// to read another process's memory is that of [`copies_in_memory`].
pub fn visit_writable_memory(pid: u32, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        if !rest.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // A mapping of the kernel ([vvar]) cannot be read, and others may no longer exist.
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            visit(&bytes);
        }
    }
    Ok(())
}
