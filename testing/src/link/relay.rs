//! The threads that move packets from one device to the other.

use super::Counts;
use super::conditions::{Conditions, Passage};
use super::device::Device;
use super::packet::Packet;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

/// A packet that is in transit, and when it arrives. The bytes in transit are limited by the link's
/// rate, queue and delay.
type InTransit = (Instant, Vec<u8>);

/// One direction of a link. Its threads end when a device is gone.
pub struct Relay {
    shared: Arc<Shared>,
    /// The kernel removes a TUN device when its last descriptor is closed.
    _from: Device,
}

#[derive(Default)]
struct Shared {
    conditions: Mutex<Conditions>,
    counts: Mutex<Counts>,
}

impl Relay {
    /// Starts the relays from the first to the second device, and back.
    pub fn between(first: Device, second: Device) -> io::Result<[Self; 2]> {
        let (to_first, to_second) = (first.try_clone()?, second.try_clone()?);
        Ok([
            Self::start(first, to_second, 1)?,
            Self::start(second, to_first, 2)?,
        ])
    }

    fn start(from: Device, to: Device, seed: u64) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let (sender, packets) = channel();
        let (reader, state) = (from.try_clone()?, shared.clone());
        thread::spawn(move || receive_packets(reader, &sender, &state, Passage::new(seed)));
        thread::spawn(move || deliver_packets(to, &packets));
        Ok(Self {
            shared,
            _from: from,
        })
    }

    pub fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.shared.conditions.lock().unwrap()
    }

    pub fn counts(&self) -> Counts {
        *self.shared.counts.lock().unwrap()
    }
}

fn receive_packets(
    mut from: Device,
    in_transit: &Sender<InTransit>,
    shared: &Shared,
    mut passage: Passage,
) {
    while let Ok(bytes) = from.receive() {
        let packet = Packet::new(bytes);
        let conditions = *shared.conditions.lock().unwrap();
        let count = packet.segments().count();
        let arrivals = passage.pass(Instant::now(), packet.segments(), &conditions);
        let passed: usize = arrivals.iter().map(|(segments, _)| segments.len()).sum();
        {
            let mut counts = shared.counts.lock().unwrap();
            counts.passed += passed as u64;
            counts.lost += (count - passed) as u64;
        }
        for (segments, due) in arrivals {
            let bytes = match segments.len() == count {
                true => packet.bytes().to_vec(),
                false => packet.part(&segments),
            };
            if in_transit.send((due, bytes)).is_err() {
                return;
            }
        }
    }
}

fn deliver_packets(mut to: Device, in_transit: &Receiver<InTransit>) {
    for (due, bytes) in in_transit {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A device that is not up accepts no packets. They are lost.
        let _ = to.send(&bytes);
    }
}
