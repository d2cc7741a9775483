//! The log: one line for each event, to a descriptor that may or may not be read.

use super::log_limit::{LogLimit, Verdict};
use crate::scalar::visible;
use crate::system::lock;
use crate::system::readiness::is_ready;
use nix::poll::PollFlags;
use nix::unistd::write;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The longest line, in bytes: as much as a pipe that polls writable accepts without blocking
/// (`PIPE_BUF`).
const MAX_LINE: usize = 4096;

/// A log.
#[derive(Debug)]
pub(crate) struct Log {
    fd: Option<OwnedFd>,
    lost: AtomicU64,
    limit: Mutex<LogLimit>,
}

impl Log {
    /// Without a descriptor, all lines are dropped.
    pub(crate) fn new(fd: Option<OwnedFd>) -> Self {
        Self {
            fd,
            lost: AtomicU64::new(0),
            limit: Mutex::default(),
        }
    }

    /// Writes one line that a peer can cause. Each kind of such lines has a limit; lines above it are
    /// counted, and a later line reports their number. `kind` is part of that line: a plural noun.
    ///
    /// Lines that only this process or its caller can cause use [`Self::line`].
    pub(crate) fn limited(&self, kind: &'static str, text: impl Display) {
        let verdict = lock(&self.limit).decide(kind, Instant::now());
        if let Verdict::Log(unlogged) = verdict {
            if let Some(unlogged) = unlogged {
                self.line(unlogged);
            }
            self.line(text);
        }
    }

    /// Reports the lines that were not logged. To be called at the end.
    pub(crate) fn report_unlogged(&self) {
        let unlogged = lock(&self.limit).unlogged(Instant::now());
        for unlogged in unlogged {
            self.line(unlogged);
        }
    }

    /// Writes one line. Guest data must not wait for a reader of the log, so a line that cannot be
    /// written at once is dropped and counted. The next line reports the count.
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
        let mut line: String = format!("{text}{lost}").chars().flat_map(visible).collect();
        if line.len() >= MAX_LINE {
            let mut end = MAX_LINE - 1;
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            line.truncate(end);
        }
        line.push('\n');
        // An error means that the reader has closed the log.
        let _ = write(fd, line.as_bytes());
    }
}
