//! The last lines of a connector's log, which have the reasons of what fails.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many of the last lines are kept.
const LINES: usize = 50;

/// For the line about a connection that has failed. The connector writes it before it closes the local socket, and
/// another thread reads it.
const REASON_TIMEOUT: Duration = Duration::from_secs(2);

/// What was read so far.
#[derive(Clone, Default)]
pub(super) struct ConnectorLog(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Default)]
struct Lines {
    last: VecDeque<String>,
    /// How many lines there were.
    count: usize,
}

impl ConnectorLog {
    pub(super) fn add(&self, line: String) {
        let mut lines = self.lines();
        if lines.last.len() == LINES {
            lines.last.pop_front();
        }
        lines.last.push_back(line);
        lines.count += 1;
        self.0.1.notify_all();
    }

    /// The last line.
    pub(super) fn last(&self) -> Option<String> {
        self.lines().last.back().cloned()
    }

    /// How many lines there were so far.
    pub(super) fn count(&self) -> usize {
        self.lines().count
    }

    /// Why a connection of this forward has failed, by a line after the first `count` ones. None if there is no line
    /// about the forward: the connector reports no failure.
    pub(super) fn failure(&self, forward: &Path, count: usize) -> Option<String> {
        let prefix = format!("forward '{}': ", forward.display());
        let of_forward = |lines: &Lines| {
            let new = lines.count.saturating_sub(count).min(lines.last.len());
            let lines = lines.last.iter().rev().take(new);
            let mut lines = lines.filter_map(|line| line.strip_prefix(&prefix));
            let latest = lines.next()?;
            let failed = std::iter::once(latest)
                .chain(lines)
                .find(|line| line.contains("FAILED"));
            Some(failed.unwrap_or(latest).to_owned())
        };
        let (lines, _) = self
            .0
            .1
            .wait_timeout_while(self.lines(), REASON_TIMEOUT, |lines| {
                of_forward(lines).is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        of_forward(&lines)
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn the_reason_is_that_of_the_forward_after_the_count() {
        let log = ConnectorLog::default();
        let websocket = Path::new("/tmp/x/websocket");
        log.add("forward '/tmp/x/websocket': connection 1: FAILED: old".to_owned());
        let count = log.count();
        log.add("forward '/tmp/x/tls': connection 1: FAILED: other".to_owned());
        let writer = log.clone();
        let later = thread::spawn(move || {
            writer.add("forward '/tmp/x/websocket': connection 2: refused".to_owned());
        });
        assert_eq!(
            log.failure(websocket, count).as_deref(),
            Some("connection 2: refused")
        );
        assert!(later.join().is_ok());
        log.add("forward '/tmp/x/websocket': connection 3: FAILED: cut".to_owned());
        log.add("forward '/tmp/x/websocket': its connections have ended".to_owned());
        log.add("control connection closed".to_owned());
        assert_eq!(
            log.failure(websocket, count).as_deref(),
            Some("connection 3: FAILED: cut")
        );
        assert_eq!(log.last().as_deref(), Some("control connection closed"));
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let log = ConnectorLog::default();
        for number in 0..2 * LINES {
            log.add(format!("forward 'a': {number}"));
        }
        assert_eq!(log.count(), 2 * LINES);
        assert_eq!(log.lines().last.len(), LINES);
        let first = log.lines().last.front().cloned();
        assert_eq!(first, Some(format!("forward 'a': {LINES}")));
    }
}
