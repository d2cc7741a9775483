//! How much a migration is expected to transfer.

use super::guest_size::GuestSize;
use crate::guest_socket::Content;

/// A forward at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::connector) struct ForwardState {
    pub(in crate::connector) content: Content,
    /// What the caller expects it to carry in both directions together, in bytes.
    pub(in crate::connector) size: Option<u64>,
    /// Bytes in both directions.
    pub(in crate::connector) moved: u64,
    /// Whether a connection is open.
    pub(in crate::connector) is_open: bool,
}

impl ForwardState {
    /// Both as one.
    fn and(self, other: Self) -> Self {
        let sizes = [self.size, other.size].into_iter().flatten();
        Self {
            content: self.content,
            size: sizes.reduce(u64::saturating_add),
            moved: self.moved.saturating_add(other.moved),
            is_open: self.is_open || other.is_open,
        }
    }
}

/// What all forwards together are expected to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connector) enum Expected {
    /// The size of an open forward is not known.
    Unknown,
    /// What was transferred, and what is left.
    Total { bytes: u64, accuracy: Accuracy },
    /// More than this was transferred.
    Exceeded { bytes: u64 },
}

/// What the operator may conclude from a total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connector) enum Accuracy {
    /// A running guest changes RAM and disks that were transferred before, and QEMU sends pages of
    /// zeros in a few bytes.
    About,
    /// More volumes may follow.
    AtLeast,
}

impl Accuracy {
    pub(in crate::connector) fn words(self) -> &'static str {
        match self {
            Self::About => "about",
            Self::AtLeast => "at least",
        }
    }
}

/// What may be transferred beyond an expected size before it counts as exceeded: one part in this
/// many. Streams have headers, and a guest has some memory beside its RAM.
const TOLERANCE: u64 = 64;

/// The total of the forwards, for a guest with these sizes.
pub(in crate::connector) fn expected(forwards: &[ForwardState], guest: &GuestSize) -> Expected {
    let with = |content| {
        forwards
            .iter()
            .copied()
            .filter(move |one| one.content == content)
    };
    let ram = with(Content::Ram).reduce(ForwardState::and);
    let disks = with(Content::Disks).reduce(ForwardState::and);
    let is_running = ram.is_some() || disks.is_some();
    // qemu-server sends RAM after every disk is complete. A disk with holes is complete before as
    // many bytes as its size were sent.
    let disks_are_complete = ram.is_some_and(|ram| ram.moved > 0);

    // A volume without an open connection is complete, or nothing is known about it yet.
    let volumes = with(Content::Other).map(|one| Part::new(one, (!one.is_open).then_some(0)));
    let disks = disks.map(|disks| match disks_are_complete {
        true => Part::complete(disks.moved),
        false => Part::new(disks, guest.disks()),
    });
    let ram = ram.map(|ram| Part::new(ram, guest.ram()));
    let sum = volumes.chain(disks).chain(ram).reduce(Part::and);

    let Some(Part {
        done,
        size: Some(size),
        left,
        is_complete,
    }) = sum
    else {
        return Expected::Unknown;
    };
    if !is_complete && left == 0 && done > size.saturating_add(size / TOLERANCE) {
        return Expected::Exceeded { bytes: size };
    }
    Expected::Total {
        bytes: done.saturating_add(left),
        accuracy: match is_running {
            true => Accuracy::About,
            false => Accuracy::AtLeast,
        },
    }
}

/// A part of a migration's data, in bytes.
struct Part {
    done: u64,
    /// None if it is not known.
    size: Option<u64>,
    left: u64,
    is_complete: bool,
}

impl Part {
    fn complete(done: u64) -> Self {
        Self {
            done,
            size: Some(done),
            left: 0,
            is_complete: true,
        }
    }

    /// `learnt` is the size if the caller has given none.
    fn new(forward: ForwardState, learnt: Option<u64>) -> Self {
        let done = forward.moved;
        if !forward.is_open && done > 0 {
            return Self::complete(done);
        }
        let size = forward.size.or(learnt);
        Self {
            done,
            size,
            left: size.unwrap_or_default().saturating_sub(done),
            is_complete: false,
        }
    }

    fn and(self, other: Self) -> Self {
        let sizes = self.size.zip(other.size);
        Self {
            done: self.done.saturating_add(other.done),
            size: sizes.map(|(one, another)| one.saturating_add(another)),
            left: self.left.saturating_add(other.left),
            is_complete: self.is_complete && other.is_complete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A forward that was opened, with its sizes in GiB.
    fn open(content: Content, moved: u64, size: Option<u64>) -> ForwardState {
        ForwardState {
            content,
            size: size.map(|size| size * GIB),
            moved: moved * GIB,
            is_open: true,
        }
    }

    fn closed(content: Content, moved: u64, size: Option<u64>) -> ForwardState {
        ForwardState {
            is_open: false,
            ..open(content, moved, size)
        }
    }

    #[test]
    fn the_total_is_what_was_transferred_and_what_is_left() {
        use Content::{Disks, Other, Ram};
        let guest = GuestSize::new(Some(100 * GIB), Some(8 * GIB));
        let total = |gibibytes: u64, accuracy| Expected::Total {
            bytes: gibibytes * GIB,
            accuracy,
        };
        let about = |gibibytes| total(gibibytes, Accuracy::About);
        let at_least = |gibibytes| total(gibibytes, Accuracy::AtLeast);
        let exceeded = |gibibytes: u64| Expected::Exceeded {
            bytes: gibibytes * GIB,
        };
        let table: Vec<(&str, Vec<ForwardState>, Expected)> = vec![
            ("no forward", vec![], Expected::Unknown),
            (
                "before the first byte",
                vec![closed(Ram, 0, None), closed(Disks, 0, None)],
                about(108),
            ),
            (
                "a volume of unknown size",
                vec![open(Other, 3, None)],
                Expected::Unknown,
            ),
            (
                "a volume whose size the caller has given",
                vec![open(Other, 3, Some(20))],
                at_least(20),
            ),
            (
                "a complete volume, and one that has no connection yet",
                vec![closed(Other, 3, None), closed(Other, 0, None)],
                at_least(3),
            ),
            (
                "a complete volume, then a running guest",
                vec![
                    closed(Other, 3, None),
                    closed(Ram, 0, None),
                    open(Disks, 40, None),
                ],
                about(111),
            ),
            (
                "disks with holes are complete when RAM begins",
                vec![open(Ram, 2, None), open(Disks, 40, None)],
                about(48),
            ),
            (
                "disks that were written to during their transfer",
                vec![closed(Ram, 0, None), open(Disks, 120, None)],
                about(128),
            ),
            (
                "RAM that was written to during its transfer",
                vec![open(Ram, 9, None), open(Disks, 40, None)],
                exceeded(48),
            ),
            (
                "everything is complete",
                vec![closed(Ram, 9, None), closed(Disks, 140, None)],
                about(149),
            ),
            (
                "the caller's sizes come before learnt ones, and are added",
                vec![
                    open(Disks, 1, Some(10)),
                    open(Disks, 1, Some(10)),
                    closed(Ram, 0, Some(4)),
                ],
                about(24),
            ),
            (
                "a volume above its size, within the tolerance",
                vec![open(Other, 64, Some(63)), open(Other, 64, Some(65))],
                at_least(129),
            ),
            (
                "the largest numbers",
                vec![
                    ForwardState {
                        moved: u64::MAX,
                        ..open(Ram, 0, None)
                    },
                    ForwardState {
                        moved: u64::MAX,
                        ..open(Disks, 0, None)
                    },
                ],
                Expected::Total {
                    bytes: u64::MAX,
                    accuracy: Accuracy::About,
                },
            ),
        ];
        for (name, forwards, expectation) in table {
            assert_eq!(expected(&forwards, &guest), expectation, "{name}");
        }
        let unknown = GuestSize::default();
        for content in [Ram, Disks] {
            let forwards = [open(content, 1, None)];
            assert_eq!(expected(&forwards, &unknown), Expected::Unknown);
        }
    }
}
