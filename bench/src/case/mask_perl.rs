//! Masking from Perl, call included: `bench/perl/mask.pl`, turn by turn in one process.

use crate::measure::{Contender, Contest, Effort, Goal, Row, Sample, Title};
use crate::{perl, project};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// How long one turn takes, in seconds.
const TURN: &str = "0.02";

pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    let program = RefCell::new(Program::start()?);
    let mut rows = Vec::new();
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
        let contest = Contest::hold(effort.runs(), contenders.into());
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
    Ok(rows)
}

/// The Perl program. It ends with its input.
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
        match program.hear().as_str() {
            "ready" => Ok(program),
            _ => Err("bench/perl/mask.pl cannot start: it has said why".to_owned()),
        }
    }

    /// Megabytes a second.
    fn turn(&mut self, name: &str, length: usize) -> f64 {
        writeln!(self.input, "{name} {length}").unwrap();
        self.hear().parse().unwrap()
    }

    fn hear(&mut self) -> String {
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
