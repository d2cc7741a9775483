//! The socket between the worker and its listener: one JSON line in, one JSON line out.
//!
//! | request | answer |
//! |---|---|
//! | `{"op":"forward","path":"/run/…"}` | `{"number":1}` |
//! | `{"op":"stat"}` | [`Stat`](crate::direct::message::Stat) |
//! | `{"op":"close"}` | the last `Stat`, after every connection has ended or failed or [`DRAIN_TIMEOUT`] has passed; then the listener ends |
//!
//! Every other request is answered with `{"error":"…"}`.

use super::acceptor::Acceptor;
use crate::direct::message::Registered;
use crate::process::{Input, Line, Output, too_long};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long connections may take to end by themselves when the migration is over. The request to
/// close arrives over the control plane, which may be faster than their last bytes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Request {
    Forward { path: String },
    Stat,
    Close,
}

/// The listener's end of the socket.
pub(super) struct ControlSocket {
    input: Input,
    output: Output,
    acceptor: Arc<Acceptor>,
}

impl ControlSocket {
    pub(super) fn new(input: Input, output: Output, acceptor: Arc<Acceptor>) -> Self {
        Self {
            input,
            output,
            acceptor,
        }
    }

    /// Reports to the worker where the listener is.
    pub(super) async fn opened(&mut self, answer: &impl Serialize) -> io::Result<()> {
        // The line holds the session key.
        let line = Zeroizing::new(serde_json::to_vec(answer)?);
        self.output.lock().await.line(&line).await
    }

    /// Answers requests until the worker requests `close` or its end of the socket is closed.
    pub(super) async fn serve(&mut self) -> io::Result<()> {
        while let Some(line) = self.input.line().await? {
            let parsed = match &line {
                Line::Whole(line) => serde_json::from_slice(line),
                Line::TooLong => Err(serde::de::Error::custom(too_long("it"))),
            };
            match parsed {
                Ok(Request::Forward { path }) => match self.acceptor.forwards.register(&path) {
                    Ok(number) => self.answer(&Registered { number }).await?,
                    Err(error) => self.answer(&json!({ "error": error.to_string() })).await?,
                },
                Ok(Request::Stat) => self.answer(&self.acceptor.stat()).await?,
                Ok(Request::Close) => {
                    self.acceptor.drain(DRAIN_TIMEOUT).await;
                    self.answer(&self.acceptor.stat()).await?;
                    return Ok(());
                }
                Err(error) => {
                    let error = format!("the listener does not support the request: {error}");
                    self.answer(&json!({ "error": error })).await?;
                }
            }
        }
        Ok(())
    }

    async fn answer(&self, value: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_vec(value)?;
        self.output.lock().await.line(&line).await
    }
}
