//! Sockets that fit the network path: their buffers and their congestion control.
//!
//! With the kernel's defaults one connection holds 4 MiB in flight, 67 MB/s at a round trip of 40 ms,
//! and CUBIC reduces its rate to 1 MB/s if 1 % of the packets are lost at 20 ms. Proxmox VE runs
//! migrations as root, which may change both for its own sockets.
//!
//! * `settings`: what the administrator requests for a network.
//! * `tuner`: the decision, a pure state machine over samples of `TCP_INFO`.
//! * `loss`: whether a path loses packets, a part of that decision.
//! * `limit`: what limits a connection, for log and record.
//! * `budget`: how much memory all connections of a process may request.
//! * `monitor`: samples a connection while it is open, and applies what the tuner decides.

mod budget;
mod limit;
mod loss;
mod monitor;
#[cfg(test)]
mod recorded;
mod sample;
mod settings;
mod tuner;

pub(crate) use limit::{Limit, LimitTimes};
pub(crate) use monitor::{INTERVAL, Monitor, Observer, State, Tuning};
pub use settings::{BUFFER_SIZES, Buffer, Congestion, Settings};
