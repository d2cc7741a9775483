//! The state machines of both ends together, over lanes that deliver in order and may fail at any
//! moment: every interleaving of a small stream, and random ones of larger streams.
#![allow(clippy::unwrap_used)]

mod every_interleaving;
mod random;

use super::{Bytes, Frame, LaneId, Place, Receiver, Sender, Stored};
use std::collections::VecDeque;

/// A frame in transit, with its payload.
type Packet = (Frame, Vec<u8>);

/// A lane: frames from the sender, and acknowledgements to it.
#[derive(Clone, Debug)]
struct Lane {
    id: LaneId,
    /// The offset and the bytes of new data that is not sent yet.
    reserved: Option<(u64, Vec<u8>)>,
    forth: VecDeque<Packet>,
    back: VecDeque<Frame>,
}

/// One direction of a stream, whose bytes are 0, 1, 2 and so on.
#[derive(Clone, Debug)]
struct Simulation {
    length: usize,
    sent: usize,
    sender: Sender<Vec<u8>>,
    receiver: Receiver<Bytes>,
    lanes: Vec<Lane>,
    lanes_opened: u64,
    received: Vec<u8>,
    /// Chunks that were sent, also again.
    chunks: usize,
    /// Those that were sent on a second lane.
    reinjected: usize,
}

impl Simulation {
    fn new(length: usize, window: u32, lanes: usize) -> Self {
        let mut simulation = Self {
            length,
            sent: 0,
            sender: Sender::new(window),
            receiver: Receiver::new(window, window),
            lanes: Vec::new(),
            lanes_opened: 0,
            received: Vec::new(),
            chunks: 0,
            reinjected: 0,
        };
        for _ in 0..lanes {
            simulation.open_lane();
        }
        simulation
    }

    fn open_lane(&mut self) {
        self.lanes.push(Lane {
            id: LaneId(self.lanes_opened),
            reserved: None,
            forth: VecDeque::new(),
            back: VecDeque::new(),
        });
        self.lanes_opened += 1;
    }

    /// A lane is lost with everything that is in transit.
    fn fail_lane(&mut self, lane: usize) {
        self.fill(lane, 1);
        let lane = self.lanes.remove(lane);
        self.sender.lane_failed(lane.id);
        self.receiver.lane_failed();
    }

    /// Reserves at most `most` new bytes for a lane. Returns whether there were any.
    fn reserve(&mut self, lane: usize, most: usize) -> bool {
        let room = self.sender.room() as usize;
        let count = most.min(room).min(self.length - self.sent);
        let lane = &mut self.lanes[lane];
        if count == 0 || lane.reserved.is_some() || self.sender.has_lost() {
            return false;
        }
        let payload = (self.sent..self.sent + count).map(|at| at as u8).collect();
        self.sent += count;
        lane.reserved = Some((self.sender.reserve(count, lane.id), payload));
        true
    }

    /// Sends the new data of a lane, in so many chunks if it is long enough. Returns whether there was
    /// any.
    fn fill(&mut self, lane: usize, parts: usize) -> bool {
        let lane = &mut self.lanes[lane];
        let Some((offset, payload)) = lane.reserved.take() else {
            return false;
        };
        let mut at = offset;
        let parts = payload.chunks(payload.len().div_ceil(parts));
        for part in parts.clone() {
            lane.forth.push_back(packet(at, Some(part.to_vec())));
            self.chunks += 1;
            at += part.len() as u64;
        }
        let parts = parts.map(|part| (part.len(), part.to_vec()));
        self.sender.fill(offset, parts);
        true
    }

    /// Sends what is due on a lane: its new data in so many chunks, or what comes before new data. Returns
    /// whether there was something.
    fn send(&mut self, lane: usize, parts: usize) -> bool {
        if self.lanes[lane].reserved.is_some() {
            return self.fill(lane, parts);
        }
        let id = self.lanes[lane].id;
        let packet = if let Some(lost) = self.sender.resend(id) {
            packet(lost.offset, lost.payload.cloned())
        } else if self.sent == self.length && !self.sender.has_ended() {
            packet(self.sender.end(id), None)
        } else {
            return false;
        };
        self.chunks += 1;
        self.lanes[lane].forth.push_back(packet);
        true
    }

    /// Sends on a lane, which has nothing else to send, what another one has not delivered.
    fn reinject(&mut self, lane: usize) -> bool {
        let is_waiting = self.sent < self.length && self.sender.room() == 0;
        let is_busy = self.lanes[lane].reserved.is_some();
        if is_busy || self.sender.has_lost() || !(is_waiting || self.sender.has_ended()) {
            return false;
        }
        let id = self.lanes[lane].id;
        let delivered = |other| {
            let lane = self.lanes.iter().find(|lane| lane.id == other);
            lane.is_none_or(|lane| lane.forth.is_empty())
        };
        let Some(again) = self.sender.reinject(id, delivered) else {
            return false;
        };
        let packet = packet(again.offset, again.payload.cloned());
        self.chunks += 1;
        self.reinjected += 1;
        self.lanes[lane].forth.push_back(packet);
        true
    }

    /// Delivers the first frame of a lane to the receiver.
    fn deliver(&mut self, lane: usize) -> bool {
        let Some((frame, payload)) = self.lanes[lane].forth.pop_front() else {
            return false;
        };
        match frame {
            Frame::Data { offset, .. } => self.deliver_data(offset, &payload),
            Frame::End { offset } => self.receiver.end(offset).unwrap(),
            other => unreachable!("{other:?}"),
        }
        true
    }

    fn deliver_data(&mut self, offset: u64, payload: &[u8]) {
        match self.receiver.place(offset, payload.len() as u64).unwrap() {
            Place::Old => {}
            Place::Next { skip } => {
                let new = &payload[skip as usize..];
                // The local program takes a part of it directly.
                let (direct, rest) = new.split_at(new.len().div_ceil(2));
                self.received.extend_from_slice(direct);
                self.receiver.take(direct.len() as u64);
                if !rest.is_empty() {
                    let at = offset + skip + direct.len() as u64;
                    self.receiver.store(at, rest.to_vec().into()).unwrap();
                }
            }
            Place::Later => self
                .receiver
                .store(offset, payload.to_vec().into())
                .unwrap(),
        }
    }

    /// The local program takes at most `most` of the stored bytes, or the end.
    fn take(&mut self, most: usize) -> bool {
        match self.receiver.next() {
            Some(Stored::Data(data)) => {
                let bytes = data.as_slice();
                let count = most.min(bytes.len());
                self.received.extend_from_slice(&bytes[..count]);
                self.receiver.take(count as u64);
            }
            Some(Stored::Zeros(_)) => unreachable!(),
            None if self.receiver.is_at_end() => self.receiver.take_end(),
            None => return false,
        }
        true
    }

    /// Sends the acknowledgement that is due on a lane.
    fn acknowledge(&mut self, lane: usize) -> bool {
        let Some((offset, window)) = self.receiver.acknowledge() else {
            return false;
        };
        let frame = Frame::Acknowledgement { offset, window };
        self.lanes[lane].back.push_back(frame);
        true
    }

    /// Delivers the first acknowledgement of a lane to the sender.
    fn deliver_back(&mut self, lane: usize) -> bool {
        let Some(Frame::Acknowledgement { offset, window }) = self.lanes[lane].back.pop_front()
        else {
            return false;
        };
        self.sender
            .acknowledge(offset, window)
            .unwrap()
            .for_each(drop);
        true
    }

    /// What must hold at every moment.
    fn check(&self) {
        let expected: Vec<u8> = (0..self.received.len()).map(|at| at as u8).collect();
        assert_eq!(self.received, expected, "{self:?}");
        if self.sender.is_complete() {
            assert!(self.is_received(), "{self:?}");
        }
    }

    fn is_received(&self) -> bool {
        self.receiver.is_complete() && self.received.len() == self.length
    }
}

fn packet(offset: u64, payload: Option<Vec<u8>>) -> Packet {
    match payload {
        Some(payload) => {
            let count = payload.len() as u32;
            (Frame::Data { offset, count }, payload)
        }
        None => (Frame::End { offset }, Vec::new()),
    }
}
