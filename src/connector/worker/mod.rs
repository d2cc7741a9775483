//! The tunnel worker on the target, as the connector uses it: lines and answers over the control
//! connection (`channel`), and the connector's own requests (`request`).

mod channel;
mod request;

pub use channel::ControlError;
pub(super) use channel::WorkerChannel;
pub(super) use request::{RequestError, is_import_query, request_operation, request_ticket};
