//! Random streams, windows, lanes, orders and failures.

use super::Simulation;
use proptest::collection::vec;
use proptest::prelude::*;

/// One step; the numbers are reduced to what exists.
#[derive(Clone, Debug)]
enum Step {
    Reserve(usize, usize),
    Send(usize, usize),
    Reinject(usize),
    Deliver(usize),
    Take(usize),
    Acknowledge(usize),
    DeliverBack(usize),
    Fail(usize),
    Open,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lane = 0..8_usize;
    vec(
        prop_oneof![
            8 => (lane.clone(), 1..40_usize).prop_map(|(lane, most)| Step::Reserve(lane, most)),
            8 => (lane.clone(), 1..4_usize).prop_map(|(lane, parts)| Step::Send(lane, parts)),
            2 => lane.clone().prop_map(Step::Reinject),
            6 => lane.clone().prop_map(Step::Deliver),
            4 => (1..60_usize).prop_map(Step::Take),
            2 => lane.clone().prop_map(Step::Acknowledge),
            2 => lane.clone().prop_map(Step::DeliverBack),
            1 => lane.prop_map(Step::Fail),
            1 => Just(Step::Open),
        ],
        0..400,
    )
}

fn apply(simulation: &mut Simulation, step: &Step) {
    let lanes = simulation.lanes.len();
    match *step {
        Step::Open if lanes < 8 => simulation.open_lane(),
        Step::Take(most) => {
            simulation.take(most);
        }
        _ if lanes == 0 => {}
        Step::Reserve(lane, most) => {
            simulation.reserve(lane % lanes, most);
        }
        Step::Send(lane, parts) => {
            simulation.send(lane % lanes, parts);
        }
        Step::Reinject(lane) => {
            simulation.reinject(lane % lanes);
        }
        Step::Deliver(lane) => {
            simulation.deliver(lane % lanes);
        }
        Step::Acknowledge(lane) => {
            simulation.acknowledge(lane % lanes);
        }
        Step::DeliverBack(lane) => {
            simulation.deliver_back(lane % lanes);
        }
        Step::Fail(lane) => simulation.fail_lane(lane % lanes),
        Step::Open => {}
    }
}

/// Steps without failures, until nothing is left to do.
fn finish(simulation: &mut Simulation) {
    if simulation.lanes.is_empty() {
        simulation.open_lane();
    }
    loop {
        let mut progressed = simulation.take(usize::MAX);
        for lane in 0..simulation.lanes.len() {
            progressed |= simulation.reserve(lane, 7);
            progressed |= simulation.send(lane, 2);
            progressed |= simulation.deliver(lane);
            progressed |= simulation.acknowledge(lane);
            progressed |= simulation.deliver_back(lane);
        }
        if !progressed {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_is_delivered_whole_after_any_failures(
        length in 0..250_usize,
        window in 2..200_u32,
        lanes in 1..8_usize,
        steps in steps(),
    ) {
        let mut simulation = Simulation::new(length, window, lanes);
        for step in &steps {
            apply(&mut simulation, step);
            simulation.check();
            prop_assert!(simulation.receiver.stored() <= u64::from(window));
        }
        finish(&mut simulation);
        simulation.check();
        prop_assert!(simulation.sender.is_complete() && simulation.is_received());
    }
}
