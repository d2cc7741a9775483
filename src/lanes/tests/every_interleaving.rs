//! Every reachable state of a small stream: two chunks and an end over two lanes, of which one may
//! fail and be replaced at any moment, and one chunk may be sent on both.

use super::Simulation;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

const LENGTH: usize = 4;
const CHUNK: usize = 2;
const WINDOW: u32 = 4;
const LANES: usize = 2;
const FAILURES: u64 = 1;
const REINJECTIONS: usize = 1;

/// What differs for two states, all but certainly.
fn key(state: &Simulation) -> u64 {
    // The number of chunks that were sent is no part of the state.
    let state = Simulation {
        chunks: 0,
        ..state.clone()
    };
    let mut hasher = DefaultHasher::new();
    format!("{state:?}").hash(&mut hasher);
    hasher.finish()
}

/// Every state that one step leads to.
fn next(state: &Simulation) -> Vec<Simulation> {
    let mut states = Vec::new();
    let mut step = |apply: &dyn Fn(&mut Simulation) -> bool| {
        let mut next = state.clone();
        if apply(&mut next) {
            states.push(next);
        }
    };
    for lane in 0..state.lanes.len() {
        step(&|next| next.reserve(lane, CHUNK));
        step(&|next| next.send(lane, 1));
        if state.reinjected < REINJECTIONS {
            step(&|next| next.reinject(lane));
        }
        step(&|next| next.deliver(lane));
        step(&|next| next.acknowledge(lane));
        step(&|next| next.deliver_back(lane));
        if state.lanes_opened < LANES as u64 + FAILURES {
            step(&|next| {
                next.fail_lane(lane);
                next.open_lane();
                true
            });
        }
    }
    step(&|next| next.take(1));
    states
}

// The harness shows the number of states with --nocapture.
#[allow(clippy::print_stdout)]
#[test]
fn every_interleaving_keeps_the_order_and_ends_with_a_complete_stream() {
    let mut seen = HashSet::new();
    let mut open = vec![Simulation::new(LENGTH, WINDOW, LANES)];
    let mut finals = 0;
    while let Some(state) = open.pop() {
        if !seen.insert(key(&state)) {
            continue;
        }
        state.check();
        let states = next(&state);
        let is_stuck = states
            .iter()
            .all(|next| next.lanes_opened > state.lanes_opened);
        if is_stuck {
            finals += 1;
            assert!(
                state.sender.is_complete() && state.is_received(),
                "{state:?}"
            );
        }
        open.extend(states);
    }
    assert!(finals > 0);
    assert!(seen.len() > 10_000, "only {} states", seen.len());
    println!("{} states, {finals} of them final", seen.len());
}
