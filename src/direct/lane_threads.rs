//! The threads that serve lanes.
//!
//! Each has a runtime of its own, and a lane stays on its thread: what keeps one of them from running
//! delays its own lanes and no others. In a runtime of several threads, one of them waits for the events
//! of all.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// So many threads. Dropping it ends their tasks, without waiting for them.
pub(super) struct LaneThreads {
    threads: Vec<Thread>,
    /// How many tasks have begun.
    tasks: AtomicUsize,
}

impl LaneThreads {
    /// Starts threads: fewer, or none, if the system refuses more.
    pub(super) fn start(count: u16) -> Self {
        let threads = (0..count).map_while(|_| Thread::start().ok());
        Self {
            threads: threads.collect(),
            tasks: AtomicUsize::new(0),
        }
    }

    /// Starts a task on the next thread, or on this one if there is none.
    pub(super) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let next = self.tasks.fetch_add(1, Ordering::Relaxed);
        match next.checked_rem(self.threads.len()) {
            Some(index) => self.threads[index].runtime.spawn(task),
            None => tokio::spawn(task),
        }
    }
}

struct Thread {
    runtime: Handle,
    stop: Arc<Notify>,
}

impl Thread {
    fn start() -> io::Result<Self> {
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let (sender, started) = sync_channel(1);
        // A runtime must not be dropped in the place of this call, so it never leaves its thread.
        let run = move || match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let _ = sender.send(Ok(runtime.handle().clone()));
                runtime.block_on(stopped.notified());
            }
            Err(error) => drop(sender.send(Err(error))),
        };
        thread::Builder::new().name("lanes".to_owned()).spawn(run)?;
        let runtime = started.recv().map_err(io::Error::other)??;
        Ok(Self { runtime, stop })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn a_thread_that_is_kept_from_running_delays_only_its_own_tasks() {
        let threads = LaneThreads::start(2);
        let (release, held) = channel::<()>();
        let (done, finished) = channel();
        threads.spawn(async move { held.recv() });
        for task in 1..4 {
            let done = done.clone();
            threads.spawn(async move { done.send(task) });
        }
        let mut tasks = vec![finished.recv_timeout(LIMIT).unwrap()];
        tasks.push(finished.recv_timeout(LIMIT).unwrap());
        assert_eq!(tasks, [1, 3]);
        let moment = Duration::from_millis(50);
        let nothing = finished.recv_timeout(moment);
        assert_eq!(nothing, Err(RecvTimeoutError::Timeout));
        release.send(()).unwrap();
        assert_eq!(finished.recv_timeout(LIMIT), Ok(2));
    }

    #[test]
    fn their_end_ends_the_tasks() {
        let threads = LaneThreads::start(1);
        let (held, dropped) = channel::<()>();
        threads.spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        drop(threads);
        let ended = dropped.recv_timeout(LIMIT);
        assert_eq!(ended, Err(RecvTimeoutError::Disconnected));
    }

    #[tokio::test]
    async fn without_threads_tasks_run_where_they_are_started() {
        let threads = LaneThreads::start(0);
        let here = std::thread::current().id();
        let there = threads.spawn(async { std::thread::current().id() });
        assert_eq!(there.await.unwrap(), here);
    }
}
