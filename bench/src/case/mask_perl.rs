//! Masking from Perl, including the call. `bench/perl/mask.pl` does all turns in one process.

use crate::measure::{Contender, Contest, Effort, Goal, Rows, Sample, Title};
use crate::{perl, project};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// The duration of one turn, in seconds.
const TURN: &str = "0.02";

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    let program = RefCell::new(Program::start()?);
    for (name, length) in [("64 KiB", 64 << 10), ("128 KiB", 128 << 10)] {
        let contender = |name: &'static str| {
            Contender::new(name, || Sample::of(program.borrow_mut().turn(name, length)))
        };
        let contenders = [
            "native",
            "perl-xor",
            "perl-xor-cached",
            "Protocol::WebSocket",
        ]
        .map(contender);
        let contest = Contest::run(effort.turns(), contenders.into());
        let title = Title {
            case: "mask-perl",
            name,
            unit: "MB/s",
        };
        for (peer, goal) in [
            ("perl-xor", Some(2.0)),
            ("perl-xor-cached", None),
            ("Protocol::WebSocket", Some(8.0)),
        ] {
            let goal = goal.map(Goal::AtLeast);
            rows.push(contest.row(title, peer, goal, |sample| sample.value));
        }
    }
    Ok(())
}

/// The Perl program. It ends at the end of its input.
struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start() -> Result<Self, String> {
        let mut command = perl::command()?;
        let mut child = command
            .arg(project::path("bench/perl/mask.pl"))
            .arg(TURN)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run perl: {error}"))?;
        let mut program = Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        match program.read_line().as_str() {
            "ready" => Ok(program),
            _ => Err("bench/perl/mask.pl did not start: see its message".to_owned()),
        }
    }

    /// Lets a contender mask scalars of this length for one turn. Returns its rate in MB/s.
    fn turn(&mut self, name: &str, length: usize) -> f64 {
        writeln!(self.input, "{name} {length}").unwrap();
        self.read_line().parse().unwrap()
    }

    fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
