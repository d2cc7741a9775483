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

use crate::measure::{Effort, Rows};

/// A case: what is measured, with which peers, and which goals it has.
pub struct Case {
    pub name: &'static str,
    /// One line for `--list` and the picture.
    pub about: &'static str,
    /// Adds the results to the rows. The error is the reason why the case cannot run here.
    pub run: fn(&Effort, &mut Rows) -> Result<(), String>,
}

/// All cases, in the order in which they run.
pub const ALL: &[Case] = &[
    Case {
        name: "mask",
        about: "XOR in place, 16 B to 16 MiB, every alignment and phase",
        run: mask::run,
    },
    Case {
        name: "mask-perl",
        about: "XOR in place from Perl, scalars of 64 and 128 KiB, including the call",
        run: mask_perl::run,
    },
    Case {
        name: "frame",
        about: "frames of 4 to 128 KiB: decoded from reads of various sizes, and encoded",
        run: frame::run,
    },
    Case {
        name: "websocket-up",
        about: "through a websocket, from the source's UNIX socket to the target's",
        run: websocket::up,
    },
    Case {
        name: "websocket-down",
        about: "through a websocket, from the target's UNIX socket to the source's",
        run: websocket::down,
    },
    Case {
        name: "tls",
        about: "UNIX socket to UNIX socket, through TLS between two processes",
        run: tls::run,
    },
    Case {
        name: "tcp",
        about: "UNIX socket to UNIX socket, through clear TCP between two processes",
        run: tcp::run,
    },
    Case {
        name: "planes",
        about: "the plane tls compared with the plane websocket through pveproxy",
        run: planes::run,
    },
    Case {
        name: "latency",
        about: "round trips of a 4 KiB request and a 4 KiB response",
        run: latency::run,
    },
    Case {
        name: "many",
        about: "1, 4, 16 and 64 forwards at once: sum, fairness, memory",
        run: many::run,
    },
    Case {
        name: "wan",
        about: "over 1 Gbit/s with round trips of 0 to 100 ms and loss of 0 to 1 %",
        run: wan::run,
    },
    Case {
        name: "guest",
        about: "RAM and disk of a real guest, from QEMU to QEMU",
        run: guest::run,
    },
    Case {
        name: "slow-reader",
        about: "memory growth while the target reads at 10 MB/s and the source writes faster",
        run: slow_reader::run,
    },
    Case {
        name: "start",
        about: "time and memory to load the Perl module; time to the first byte of a forward",
        run: start::run,
    },
];

/// The cases with these names; all cases if there are no names. The error is the first unknown
/// name.
pub fn select(names: &[String]) -> Result<Vec<&'static Case>, &String> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    names
        .iter()
        .map(|name| ALL.iter().find(|case| case.name == name).ok_or(name))
        .collect()
}
