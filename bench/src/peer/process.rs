//! A process that ends with the benchmark.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process that is killed when this value is dropped, or when the thread that started it ends.
pub struct Process {
    child: Child,
}

impl Process {
    pub fn start(command: &Command) -> Self {
        let mut guarded = Command::new("setpriv");
        guarded
            .args(["--pdeathsig", "KILL", "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            guarded.env(name, value.unwrap());
        }
        Self {
            child: guarded.spawn().unwrap(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of an installed program.
pub fn installed(program: &str) -> Result<PathBuf, String> {
    ["/usr/bin", "/usr/local/bin", "/bin"]
        .map(|directory| Path::new(directory).join(program))
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| format!("{program} is not installed"))
}
