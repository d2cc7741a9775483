//! The names of the cases.

/// What a case of the benchmarks measures.
pub struct Case {
    pub name: &'static str,
    /// One line for `--list` and the picture.
    pub about: &'static str,
}

/// All cases, in the order in which they run.
pub const ALL: &[Case] = &[
    Case {
        name: "mask",
        about: "XOR in place, 16 B to 16 MiB, every alignment and phase",
    },
    Case {
        name: "mask-perl",
        about: "XOR in place from Perl, scalars of 64 and 128 KiB, including the call",
    },
    Case {
        name: "frame",
        about: "frames of 4 to 128 KiB: decoded from reads of various sizes, and encoded",
    },
    Case {
        name: "websocket-up",
        about: "through a websocket, from the source's UNIX socket to the target's",
    },
    Case {
        name: "websocket-down",
        about: "through a websocket, from the target's UNIX socket to the source's",
    },
    Case {
        name: "tls",
        about: "UNIX socket to UNIX socket, through TLS between two processes",
    },
    Case {
        name: "tcp",
        about: "UNIX socket to UNIX socket, through clear TCP between two processes",
    },
    Case {
        name: "planes",
        about: "the plane tls compared with the plane websocket through pveproxy",
    },
    Case {
        name: "latency",
        about: "round trips of a 4 KiB request and a 4 KiB response",
    },
    Case {
        name: "many",
        about: "1, 4, 16 and 64 forwards at once: sum, fairness, memory",
    },
    Case {
        name: "wan",
        about: "over 1 Gbit/s with round trips of 0 to 100 ms and loss of 0 to 1 %",
    },
    Case {
        name: "lanes",
        about: "several connections for one stream, over long and lossy paths",
    },
    Case {
        name: "sparse",
        about: "a volume with 5 % data in lanes: as a stream, and mirrored by QEMU over NBD",
    },
    Case {
        name: "aggregation",
        about: "one stream over 1 and 4 connections, on loopback and over long and lossy paths",
    },
    Case {
        name: "cores",
        about: "one stream over 1, 4 and 8 lanes, while each thread has a tenth of a core",
    },
    Case {
        name: "compression",
        about: "a compressed stream over 100 Mbit/s, and where the network is not the limit",
    },
    Case {
        name: "guest",
        about: "RAM and disk of a real guest, from QEMU to QEMU",
    },
    Case {
        name: "slow-reader",
        about: "memory growth while the target reads at 10 MB/s and the source writes faster",
    },
    Case {
        name: "start",
        about: "time and memory to load the Perl module; time to the first byte of a forward",
    },
];

/// The case with this name.
pub fn named(name: &str) -> Option<&'static Case> {
    ALL.iter().find(|case| case.name == name)
}

/// The position of a case among all cases; none if there is no such case.
pub fn position(name: &str) -> Option<usize> {
    ALL.iter().position(|case| case.name == name)
}
