//! Runs programs of the system, with a clean environment, a time limit, and a limit on the output
//! that is kept.

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The number of bytes that are kept of standard output and of standard error. The longest output is
/// the list of a storage: a line of about 100 bytes for each volume.
const MAX_OUTPUT: usize = 4 << 20;

/// How long output is read after the program has ended. A process that the program has left running
/// can keep the pipes open without limit.
const GRACE: Duration = Duration::from_secs(1);

/// The prefix of the variables that dpkg sets in maintainer scripts, for programs of dpkg that these
/// run.
const KEPT_VARIABLES: &str = "DPKG_";

/// The exit status and the output of a program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    program: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Checks that all of standard output was kept.
    pub(crate) fn complete(self) -> Result<Self, ProgramError> {
        if self.stdout.len() < MAX_OUTPUT {
            return Ok(self);
        }
        Err(ProgramError::InvalidOutput {
            program: self.program,
            cause: format!("it has more than {} MiB", MAX_OUTPUT >> 20),
        })
    }
}

/// Why the output of a program cannot be used.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// The program could not be started.
    #[error("cannot run {program}: {cause}")]
    Start {
        /// The program's name.
        program: String,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The program exceeded its time limit.
    #[error("{program} did not end within {} seconds and was killed", .limit.as_secs())]
    TimedOut {
        /// The program's name.
        program: String,
        /// Its time limit.
        limit: Duration,
    },
    /// The program failed.
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// The program's name.
        program: String,
        /// Its exit status.
        status: ExitStatus,
        /// Its standard error, as one line.
        stderr: String,
    },
    /// A lock file that the program requires cannot be opened or locked.
    #[error("cannot lock {}: {cause}", .path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The program wrote something that is not in the expected format.
    #[error("the output of {program} cannot be read: {cause}")]
    InvalidOutput {
        /// The program's name.
        program: String,
        /// How the output differs from the format.
        cause: String,
    },
}

/// Returns a command for a program of the system. The environment and the working directory of the
/// caller do not influence it.
pub(crate) fn clean_command(program: &str) -> Command {
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

/// Runs a program. A failure of the program is an error.
pub(crate) fn run_checked(
    command: &mut Command,
    limit: Duration,
) -> Result<Finished, ProgramError> {
    let finished = run(command, limit)?;
    if finished.status.success() {
        return Ok(finished);
    }
    Err(ProgramError::Failed {
        program: name(command),
        status: finished.status,
        stderr: one_line(&finished.stderr),
    })
}

/// Runs a program until it ends. Kills it and its process group after the time limit.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<Finished, ProgramError> {
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
    // WNOWAIT leaves the process a zombie. The kernel does not reuse its ID before `wait` below, so
    // that `killpg` cannot kill another process.
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
        program,
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
            if kept > 0 {
                // Ignored if the receiver is gone: the pipe is still read to its end.
                let _ = pieces.send(buffer[..kept].to_vec());
            }
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

/// Joins the lines of a program's standard error.
pub(crate) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match lines.is_empty() {
        true => "it gave no reason".to_owned(),
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
        let mut shell = clean_command("sh");
        shell.args(["-c", script]);
        shell
    }

    /// Longer than any program here takes, shorter than the programs that are killed.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_that_hangs_is_killed_with_its_descendants() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut hanging = shell("exec 3>\"$0\"; (sleep 1000) & sleep 1000");
        hanging.arg(&fifo);
        // Reading ends when the last of the processes has ended.
        let reader = thread::spawn(move || std::fs::read(fifo).unwrap());
        let error = run(&mut hanging, Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, ProgramError::TimedOut { .. }), "{error}");
        assert!(reader.join().unwrap().is_empty());
    }

    #[test]
    fn a_process_that_the_program_leaves_running_is_not_waited_for() {
        let began = Instant::now();
        let finished = run(&mut shell("sleep 20 & echo done"), LONG).unwrap();
        assert_eq!(finished.stdout, "done\n");
        assert!(began.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn output_is_kept_up_to_the_limit() {
        let script = "head -c 10000000 /dev/zero; echo no >&2; exit 3";
        let finished = run(&mut shell(script), LONG).unwrap();
        assert_eq!(finished.stdout.len(), MAX_OUTPUT);
        let error = finished.complete().unwrap_err().to_string();
        assert!(error.ends_with("it has more than 4 MiB"), "{error}");
        let error = run_checked(&mut shell(script), LONG)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "sh failed (exit status: 3): no");
    }

    #[test]
    fn the_environment_of_the_caller_is_not_passed_on() {
        let finished = run(&mut clean_command("env"), LONG).unwrap();
        let names: Vec<&str> = finished
            .stdout
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0))
            .filter(|name| !name.starts_with(KEPT_VARIABLES))
            .collect();
        assert_eq!(names, ["LC_ALL", "PATH"]);
    }

    #[test]
    fn the_error_names_a_program_that_does_not_exist() {
        let error = run(&mut clean_command("no-such-program"), LONG).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot run no-such-program: ")
        );
    }
}
