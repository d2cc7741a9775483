//! What the worker says to its listener, a JSON line for a JSON line.
//!
//! | line | answer |
//! |---|---|
//! | `{"op":"forward","path":"/run/…"}` | `{"number":1}` |
//! | `{"op":"stat"}` | [`Stat`](crate::direct::message::Stat) |
//! | `{"op":"close"}` | the last stat, when every connection is over or [`SETTLE`] has passed; then the listener ends |
//!
//! Anything else gets `{"error":"…"}`.

use super::door::Door;
use crate::direct::message::{Open, Registered};
use crate::process::{Input, Line, Output};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long connections may still take to end by themselves when the migration is over: the control
/// plane, on which that is said, may be faster than their last bytes.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Request {
    Forward { path: String },
    Stat,
    Close,
}

/// The worker's line to us.
pub(super) struct Control {
    input: Input,
    output: Output,
    door: Arc<Door>,
}

impl Control {
    pub(super) fn new(input: Input, output: Output, door: Arc<Door>) -> Self {
        Self {
            input,
            output,
            door,
        }
    }

    /// Says where the listener is.
    pub(super) async fn opened(&mut self, open: &Open) -> io::Result<()> {
        // It holds the session key.
        let line = Zeroizing::new(serde_json::to_vec(open)?);
        self.output.lock().await.line(&line).await
    }

    /// Serves the worker until it closes the door, or is gone.
    pub(super) async fn serve(&mut self) -> io::Result<()> {
        while let Some(line) = self.input.line().await? {
            let parsed = match &line {
                Line::Whole(line) => serde_json::from_slice(line),
                Line::TooLong => Err(serde::de::Error::custom("it is longer than 1 MiB")),
            };
            match parsed {
                Ok(Request::Forward { path }) => match self.door.forwards.register(&path) {
                    Ok(number) => self.answer(&Registered { number }).await?,
                    Err(error) => self.answer(&json!({ "error": error.to_string() })).await?,
                },
                Ok(Request::Stat) => self.answer(&self.door.stat()).await?,
                Ok(Request::Close) => {
                    self.door.settle(SETTLE).await;
                    self.answer(&self.door.stat()).await?;
                    return Ok(());
                }
                Err(error) => {
                    let error = format!("the listener does not understand the request: {error}");
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
