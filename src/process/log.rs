//! Diagnostics: one line each, to a descriptor that somebody may or may not be reading.

use crate::system::readiness::is_ready;
use nix::poll::PollFlags;
use nix::unistd::write;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest line, in bytes: at most this much can be written to a pipe that polls writable
/// without waiting (`PIPE_BUF`).
const MAX_LINE: usize = 4096;

/// Where diagnostics go.
#[derive(Debug)]
pub(crate) struct Log {
    fd: Option<OwnedFd>,
    lost: AtomicU64,
}

impl Log {
    /// Without a descriptor, diagnostics are dropped.
    pub(crate) fn new(fd: Option<OwnedFd>) -> Self {
        Self {
            fd,
            lost: AtomicU64::new(0),
        }
    }

    /// Writes one line. Guest data must not wait for a reader of log lines, so a line that cannot
    /// be written at once is counted and the count is told with the next one that can.
    pub(crate) fn line(&self, text: impl Display) {
        let Some(fd) = &self.fd else { return };
        if !is_ready(fd, PollFlags::POLLOUT).unwrap_or(false) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = match self.lost.swap(0, Ordering::Relaxed) {
            0 => String::new(),
            count => format!(" ({count} lines before this one were lost)"),
        };
        let mut line: String = format!("{text}{lost}")
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if line.len() >= MAX_LINE {
            let mut end = MAX_LINE - 1;
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            line.truncate(end);
        }
        line.push('\n');
        // Whoever closed the log does not want it.
        let _ = write(fd, line.as_bytes());
    }
}
