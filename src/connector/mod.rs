//! The process on the source: control connection, plane, forwards.
//!
//! It implements the protocol of `proxmox-websocket-tunnel` on its standard input and output
//! (`protocol`), keeps the control connection to the worker (`worker`), agrees with the target on a
//! plane (`negotiation`, `negotiation_context`, `offer`, `agreed`, `address_rules`), and serves forwards
//! (`forward`). Each connection of a forward gets a websocket of its own (`dial`, `api_address`,
//! `websocket_halves`), or a connection to the target's listener (`direct_target`), or several
//! (`lanes`). The listener is reached directly (`direct_listener`, `direct_endpoint`) or through the
//! API (`api_lanes`, `api_route`). `session` carries the commands out, `progress` and `record` report
//! what was transferred, and `published` is what `pve-tunnel list` shows.

mod address_rules;
mod agreed;
mod api_address;
mod api_lanes;
mod api_route;
mod connect_error;
mod dial;
mod direct_endpoint;
mod direct_listener;
mod direct_target;
mod forward;
mod happy_eyeballs;
mod json_object;
mod lane_demand;
mod lanes;
mod negotiation;
mod negotiation_context;
mod offer;
mod options;
mod progress;
mod protocol;
mod published;
mod record;
mod session;
mod websocket_halves;
mod worker;

pub use dial::DialError;
pub use options::Options;
pub use worker::ControlError;

use crate::process::{Input, Log, Output};
use crate::publication::{self, Publication};
use crate::system::{ConfidentialMemory, ParentDeathSignal, Signals, limits};
use forward::Traffic;
use published::Published;
use session::Connector;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

/// Whether a line on standard input is accepted.
#[cfg(fuzzing)]
pub(crate) fn fuzzing_accepts(line: &[u8]) -> bool {
    protocol::parse(line).is_ok()
}

/// Why the connector ended before its input did.
#[derive(Debug, Error)]
pub enum ConnectorError {
    /// A descriptor cannot be used.
    #[error("standard input or output: {0}")]
    Channel(io::Error),
    /// The system refuses something that the connector needs.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The control connection ended.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The control connection was requested and could not be opened.
    #[error("no control connection: {0}")]
    NotConnected(String),
    /// A signal.
    #[error("ended by {0}")]
    Signal(&'static str),
    /// The process that started this one has ended (`end_with_parent`).
    #[error("the process that started this connector has ended")]
    ParentEnded,
}

/// Runs the connector until its input ends, the control connection ends, or SIGHUP, SIGINT, SIGTERM
/// or SIGALRM arrives. The signal is raised again after the clean-up.
///
/// `input` and `output` carry the protocol, diagnostics go to `log`, one line each. The sockets of
/// forwards are removed at the end. Blocks the calling thread. The lookup of a host name uses a second
/// thread.
pub fn run(
    input: OwnedFd,
    output: OwnedFd,
    log: Option<OwnedFd>,
    options: &Options,
) -> Result<(), ConnectorError> {
    // Dropped last, when everything else has been freed.
    let _confidential = ConfidentialMemory::require().map_err(ConnectorError::Start)?;
    limits::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ConnectorError::Start)?;
    let result = runtime.block_on(async {
        let signals = Signals::block().map_err(ConnectorError::Start)?;
        let parent_death = options
            .end_with_parent
            .then(ParentDeathSignal::set)
            .transpose()
            .map_err(ConnectorError::Start)?;
        let log = Arc::new(Log::new(log));
        let traffic = Arc::new(Traffic::default());
        let published = Arc::new(Published::default());
        let publication = publish(&log);
        let mut connector = Connector::new(
            Input::new(input).map_err(ConnectorError::Channel)?,
            Output::new(output).map_err(ConnectorError::Channel)?,
            log.clone(),
            options,
            traffic.clone(),
            published.clone(),
        );
        let state = || published.state(&traffic);
        let result = tokio::select! {
            result = connector.run() => result,
            never = traffic.log_progress(&log) => match never {},
            never = publication::serve(publication.as_ref(), state) => match never {},
            signal = signals.wait() => Err(match signal {
                Ok(_) if parent_death.as_ref().is_some_and(ParentDeathSignal::parent_has_died) => {
                    ConnectorError::ParentEnded
                }
                Ok(name) => ConnectorError::Signal(name),
                Err(error) => ConnectorError::Start(error),
            }),
        };
        connector.stop_forwards().await;
        log.report_unlogged();
        connector.log_record();
        match &result {
            // A failed connection was logged when it failed.
            Ok(()) | Err(ConnectorError::NotConnected(_)) => {}
            Err(error) => log.line(error),
        }
        result
    });
    // A pending name lookup must not delay the end.
    runtime.shutdown_background();
    result
}

/// Begins to publish the state of the tunnel, which does not need it.
fn publish(log: &Log) -> Option<Publication> {
    Publication::open(Path::new(publication::DIRECTORY)).unwrap_or_else(|error| {
        log.line(publication::Unpublished(error));
        None
    })
}
