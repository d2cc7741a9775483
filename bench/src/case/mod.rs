//! The cases.

mod frame;
mod guest;
mod latency;
mod many;
mod mask;
mod mask_perl;
mod planes;
mod slow_reader;
mod start;
mod tcp;
mod tls;
mod wan;
mod websocket;

use crate::measure::{Effort, Row};
use crate::peer::bare;
use testing::role;

/// One case: a name, what it is about, and how it is run. What cannot be run here says why.
pub struct Case {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Effort) -> Result<Vec<Row>, String>,
}

const CASES: &[Case] = &[
    Case {
        name: "mask",
        about: "XOR in place, 16 B to 16 MiB, every alignment and phase",
        run: mask::run,
    },
    Case {
        name: "mask-perl",
        about: "the same from Perl on a scalar of 64 and 128 KiB, call included",
        run: mask_perl::run,
    },
    Case {
        name: "frame",
        about: "streams of frames of 4 to 128 KiB, decoded in odd pieces, and encoded",
        run: frame::run,
    },
    Case {
        name: "websocket-up",
        about: "a UNIX socket to a UNIX socket at the target, by websocket",
        run: websocket::up,
    },
    Case {
        name: "websocket-down",
        about: "the same, the other way",
        run: websocket::down,
    },
    Case {
        name: "tls",
        about: "UNIX socket to UNIX socket by TLS between two processes",
        run: tls::run,
    },
    Case {
        name: "tcp",
        about: "UNIX socket to UNIX socket by clear TCP between two processes",
        run: tcp::run,
    },
    Case {
        name: "planes",
        about: "tls against websocket through pveproxy",
        run: planes::run,
    },
    Case {
        name: "latency",
        about: "4 KiB there and back",
        run: latency::run,
    },
    Case {
        name: "many",
        about: "1, 4, 16 and 64 forwards at once: sum, fairness, memory",
        run: many::run,
    },
    Case {
        name: "wan",
        about: "direct planes over 1 Gbit/s with round trips of 0, 10 and 40 ms",
        run: wan::run,
    },
    Case {
        name: "guest",
        about: "RAM and disk of a real guest, from QEMU to QEMU",
        run: guest::run,
    },
    Case {
        name: "slow-reader",
        about: "memory while the target reads at 10 MB/s and the source pushes",
        run: slow_reader::run,
    },
    Case {
        name: "start",
        about: "time and memory that the Perl module starts with; the first byte of a forward",
        run: start::run,
    },
];

/// The cases of these names, all of them without any; the first name that there is not.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Case>, &String> {
    if names.is_empty() {
        return Ok(CASES.iter().collect());
    }
    names
        .iter()
        .map(|name| CASES.iter().find(|case| case.name == name).ok_or(name))
        .collect()
}

/// Every case, in the order in which they run.
pub fn all() -> &'static [Case] {
    CASES
}

/// A program that this one starts as a process of its own: itself, with the role's name as a word of
/// its command line.
pub type Role = (&'static str, fn());

const ROLES: &[&[Role]] = &[&[("listener_process", role::listener_process)], bare::ROLES];

/// Whether this process was started for a role, which it has then played to its end.
pub fn plays_a_role() -> bool {
    let roles = ROLES.iter().copied().flatten();
    let role = std::env::args().find_map(|word| roles.clone().find(|(name, _)| *name == word));
    role.map(|(_, play)| play()).is_some()
}
