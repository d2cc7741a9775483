//! The cases.

mod aggregation;
mod compression;
mod cores;
mod frame;
mod guest;
mod lanes;
mod latency;
mod many;
mod mask;
mod mask_perl;
mod planes;
mod slow_reader;
mod sparse;
mod start;
mod tcp;
mod tls;
mod wan;
mod websocket;

use crate::measure::{Effort, Rows};
use bench_report::case::{ALL, Case, named};

/// Adds the results of a case to the rows. The error is the reason why the case cannot run here.
pub type Run = fn(&Effort, &mut Rows) -> Result<(), String>;

/// The function that runs a case.
pub fn runner(case: &Case) -> Run {
    match case.name {
        "mask" => mask::run,
        "mask-perl" => mask_perl::run,
        "frame" => frame::run,
        "websocket-up" => websocket::up,
        "websocket-down" => websocket::down,
        "tls" => tls::run,
        "tcp" => tcp::run,
        "planes" => planes::run,
        "latency" => latency::run,
        "many" => many::run,
        "wan" => wan::run,
        "lanes" => lanes::run,
        "sparse" => sparse::run,
        "aggregation" => aggregation::run,
        "cores" => cores::run,
        "compression" => compression::run,
        "guest" => guest::run,
        "slow-reader" => slow_reader::run,
        "start" => start::run,
        name => panic!("the case '{name}' has no function"),
    }
}

/// The cases with these names; all cases if there are no names. The error is the first unknown
/// name.
pub fn select(names: &[String]) -> Result<Vec<&'static Case>, &String> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    names.iter().map(|name| named(name).ok_or(name)).collect()
}
