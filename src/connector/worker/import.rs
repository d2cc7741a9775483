//! The disk import that the worker runs, as far as the connector observes it.
//!
//! The worker learns the volume of an import when it answers a query after the end of the import, and
//! its clean-up frees only volumes that it has learnt. Every query therefore reaches the worker, also
//! when the data of the import is lost. Then only the worker's last answer is replaced by an error,
//! because the program that reads the import may have taken the loss for the end of its stream.

use super::request::{QUERY_IMPORT, worker_answer};
use crate::connector::protocol;
use crate::system::lock;
use serde::Deserialize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long an import without data may stay pending: longer than the 30 s that an import of Proxmox
/// VE waits for its connection. Then the caller receives the error, so that it does not wait without
/// a limit.
const END_LIMIT: Duration = Duration::from_secs(35);

/// A command of the caller that changes what the connector does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connector) enum CallerCommand {
    StartImport,
    QueryImport,
    /// The server of the disks shall end.
    StopDisks,
    Quit,
    Other,
}

impl CallerCommand {
    /// The command in a line for the worker.
    pub(in crate::connector) fn of(line: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Command {
            cmd: Option<String>,
        }
        let name = serde_json::from_slice::<Command>(line).map(|command| command.cmd);
        match name.ok().flatten().as_deref() {
            Some("disk-import") => Self::StartImport,
            Some(QUERY_IMPORT) => Self::QueryImport,
            Some("nbdstop") => Self::StopDisks,
            Some("quit") => Self::Quit,
            _ => Self::Other,
        }
    }
}

/// The worker's import. Clones share the state.
#[derive(Clone, Debug, Default)]
pub(in crate::connector) struct DiskImport(Arc<Mutex<Progress>>);

#[derive(Debug, Default)]
struct Progress {
    may_be_running: bool,
    /// When a query was answered after the loss of its data for the first time.
    lost_since: Option<Instant>,
}

impl DiskImport {
    /// The caller has requested an import.
    pub(in crate::connector) fn start(&self) {
        lock(&self.0).may_be_running = true;
    }

    /// Whether the worker has not yet reported the end of a requested import.
    pub(in crate::connector) fn may_be_running(&self) -> bool {
        lock(&self.0).may_be_running
    }

    /// The caller's answer to a query, from the worker's answer that arrives `now`. `loss` is the
    /// reason if data of the import is lost.
    pub(in crate::connector) fn answer(
        &self,
        answer: Vec<u8>,
        loss: Option<String>,
        now: Instant,
    ) -> Vec<u8> {
        let pending = is_pending(&answer);
        let mut progress = lock(&self.0);
        progress.may_be_running &= pending;
        let Some(loss) = loss else { return answer };
        let lost_for = now.duration_since(*progress.lost_since.get_or_insert(now));
        let late = match pending {
            true if lost_for < END_LIMIT => return answer,
            true => format!("; the import at the target has not ended within {END_LIMIT:?}"),
            false => String::new(),
        };
        let message = format!("the data on its way to the target is lost: {loss}{late}");
        protocol::failure(message).to_string().into_bytes()
    }
}

fn is_pending(answer: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Import {
        status: Option<String>,
    }
    worker_answer::<Import>(answer).is_ok_and(|import| import.status.as_deref() == Some("pending"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::Value;

    #[test]
    fn commands_are_recognized_by_their_name() {
        for (line, expected) in [
            (
                r#"{"cmd":"disk-import","format":"raw"}"#,
                CallerCommand::StartImport,
            ),
            (r#"{"cmd":"query-disk-import"}"#, CallerCommand::QueryImport),
            (r#"{"cmd":"quit","cleanup":1}"#, CallerCommand::Quit),
            (r#"{"cmd":"stop"}"#, CallerCommand::Other),
            (r#"{"cmd":["quit"]}"#, CallerCommand::Other),
            ("quit", CallerCommand::Other),
        ] {
            assert_eq!(CallerCommand::of(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn only_the_last_answer_of_a_lost_import_is_replaced() {
        let pending = r#"{"success":1,"status":"pending"}"#;
        let over = [
            r#"{"success":1,"status":"complete","volid":"a:b"}"#,
            r#"{"success":1,"status":"error"}"#,
            r#"{"success":0,"msg":"no disk import running","status":"pending"}"#,
            r#"{"success":1}"#,
            "nonsense",
        ];
        for last in over {
            let import = DiskImport::default();
            let answer = |text: &str, loss: Option<&str>| {
                let bytes = import.answer(text.into(), loss.map(str::to_owned), Instant::now());
                String::from_utf8(bytes).unwrap()
            };
            import.start();
            assert_eq!(answer(pending, None), pending);
            assert_eq!(answer(pending, Some("gone")), pending);
            assert!(import.may_be_running());
            let replaced: Value = serde_json::from_str(&answer(last, Some("gone"))).unwrap();
            assert_eq!(replaced["success"], false, "{last}");
            assert_eq!(
                replaced["msg"],
                "the data on its way to the target is lost: gone"
            );
            assert!(!import.may_be_running(), "{last}");
            // Without a loss, the worker's answer is the caller's.
            assert_eq!(answer(last, None), last);
        }
    }

    #[test]
    fn a_lost_import_that_does_not_end_is_an_error_after_the_limit() {
        let import = DiskImport::default();
        import.start();
        let pending = br#"{"success":1,"status":"pending"}"#;
        let lost = Instant::now();
        let answer = |seconds| {
            let now = lost + Duration::from_secs(seconds);
            import.answer(pending.to_vec(), Some("gone".to_owned()), now)
        };
        assert_eq!(answer(0), pending);
        assert_eq!(answer(34), pending);
        let late: Value = serde_json::from_slice(&answer(35)).unwrap();
        assert!(
            late["msg"]
                .as_str()
                .unwrap()
                .ends_with("has not ended within 35s")
        );
        assert!(import.may_be_running());
    }
}
