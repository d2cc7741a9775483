//! Programs of the system: with a clean environment, a time limit, and no more of their output
//! than anybody reads.

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Most bytes kept of each of a program's outputs: far more than any of them has to say.
const MAX_OUTPUT: usize = 1 << 16;

/// How long the outputs may stay open once the program has ended, which a process that it has left
/// behind can make for ever.
const GRACE: Duration = Duration::from_secs(1);

/// What dpkg's programs tell each other when one of them runs another, in a maintainer script.
const KEPT_VARIABLES: &str = "DPKG_";

/// A program that has ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Why a program gave no answer.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// It could not be started.
    #[error("cannot run {program}: {cause}")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        cause: std::io::Error,
    },
    /// It was killed.
    #[error("{program} has not ended within {} seconds and was killed", .limit.as_secs())]
    TimedOut {
        /// Its name.
        program: String,
        /// Its time limit.
        limit: Duration,
    },
    /// It failed.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said about it.
        said: String,
    },
    /// It answered something that is no answer.
    #[error("{program} gave no answer that can be read: {cause}")]
    Answer {
        /// Its name.
        program: String,
        /// What is wrong with it.
        cause: String,
    },
}

/// A program with a clean environment: nothing of the caller's decides what it does.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| {
            name.to_str()
                .is_some_and(|name| name.starts_with(KEPT_VARIABLES))
        }))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/");
    command
}

/// Runs it, and fails if it does.
pub(super) fn run_checked(
    command: &mut Command,
    limit: Duration,
) -> Result<Finished, ProgramError> {
    let outcome = run(command, limit)?;
    if outcome.status.success() {
        return Ok(outcome);
    }
    Err(ProgramError::Failed {
        program: name(command),
        status: outcome.status,
        said: one_line(&outcome.stderr),
    })
}

/// Runs it to its end, or kills it and all of its process group once the limit is over.
pub(super) fn run(command: &mut Command, limit: Duration) -> Result<Finished, ProgramError> {
    let program = name(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|cause| ProgramError::Start {
            program: program.clone(),
            cause,
        })?;
    let group = Pid::from_raw(child.id() as i32);
    let stdout = child.stdout.take().map(read_in_background);
    let stderr = child.stderr.take().map(read_in_background);
    // Not reaped there: until it is, its number is nobody else's, and can be killed.
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let _ = waitid(Id::Pid(group), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let _ = ended.send(());
    });
    let in_time = end.recv_timeout(limit).is_ok();
    if !in_time {
        let _ = killpg(group, Signal::SIGKILL);
    }
    let status = child.wait().map_err(|cause| ProgramError::Start {
        program: program.clone(),
        cause,
    })?;
    if !in_time {
        return Err(ProgramError::TimedOut { program, limit });
    }
    let deadline = Instant::now() + GRACE;
    let text = |pieces| text_until(deadline, pieces);
    Ok(Finished {
        status,
        stdout: stdout.map(text).unwrap_or_default(),
        stderr: stderr.map(text).unwrap_or_default(),
    })
}

/// Reads the pipe to its end, so that the writer never waits, and sends the first [`MAX_OUTPUT`]
/// bytes.
fn read_in_background<R: Read + Send + 'static>(mut pipe: R) -> Receiver<Vec<u8>> {
    let (pieces, received) = mpsc::channel();
    thread::spawn(move || {
        let mut room = MAX_OUTPUT;
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            let kept = count.min(room);
            room -= kept;
            // Ignored if the receiver is gone: the pipe is still read to its end.
            let _ = pieces.send(buffer[..kept].to_vec());
        }
    });
    received
}

/// What is received until the pipe is closed, at the latest until the deadline.
fn text_until(deadline: Instant, pieces: Receiver<Vec<u8>>) -> String {
    let mut bytes = Vec::new();
    let left = || deadline.saturating_duration_since(Instant::now());
    while let Ok(piece) = pieces.recv_timeout(left()) {
        bytes.extend(piece);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What it said, on one line.
pub(super) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match lines.is_empty() {
        true => "it did not say why".to_owned(),
        false => lines.join(" "),
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str) -> Command {
        let mut shell = command("sh");
        shell.args(["-c", script]);
        shell
    }

    /// Longer than anything here takes, shorter than what is to be cut off.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_hangs_is_killed_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut hanging = shell("exec 3>\"$0\"; (sleep 1000) & sleep 1000");
        hanging.arg(&fifo);
        // Ends once the last of them has.
        let alive = thread::spawn(move || std::fs::read(fifo).unwrap());
        let error = run(&mut hanging, Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, ProgramError::TimedOut { .. }), "{error}");
        assert!(alive.join().unwrap().is_empty());
    }

    #[test]
    fn a_process_that_is_left_behind_is_not_waited_for() {
        let began = Instant::now();
        let outcome = run(&mut shell("sleep 20 & echo done"), LONG).unwrap();
        assert_eq!(outcome.stdout, "done\n");
        assert!(began.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn no_more_is_kept_than_anybody_reads() {
        let script = "head -c 1000000 /dev/zero; echo no >&2; exit 3";
        let outcome = run(&mut shell(script), LONG).unwrap();
        assert_eq!(outcome.stdout.len(), MAX_OUTPUT);
        let error = run_checked(&mut shell(script), LONG)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "sh failed (exit status: 3): no");
    }

    #[test]
    fn nothing_of_the_caller_s_environment_decides() {
        let outcome = run(&mut command("env"), LONG).unwrap();
        let names: Vec<&str> = outcome
            .stdout
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0))
            .filter(|name| !name.starts_with(KEPT_VARIABLES))
            .collect();
        assert_eq!(names, ["LC_ALL", "PATH"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut command("no-such-program"), LONG).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot run no-such-program: ")
        );
    }
}
