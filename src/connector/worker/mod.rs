//! The tunnel worker on the target, as the connector uses it: lines and answers over the control
//! connection (`channel`), the connector's own requests (`request`), and the worker's disk import
//! (`import`).

mod channel;
mod import;
mod request;

pub use channel::ControlError;
pub(super) use channel::{WeakWorkerChannel, WorkerChannel};
pub(super) use import::{CallerCommand, DiskImport};
pub(super) use request::{RequestError, request_import_status, request_operation, request_ticket};
