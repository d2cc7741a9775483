//! JSON objects from standard input and from the worker, and errors that do not repeat their values.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::{Category, Error};
use thiserror::Error;

/// Why a text is not the expected JSON object.
///
/// The text may hold credentials, and serde's messages quote values of the wrong type, so the message
/// names only the kind of mistake and its position.
#[derive(Debug, Error)]
#[error("invalid {what}: {cause}")]
pub(super) struct JsonError {
    /// What the text should have been.
    what: &'static str,
    cause: String,
}

impl JsonError {
    fn new(what: &'static str, error: &Error) -> Self {
        let message = error.to_string();
        let cause = match error.classify() {
            Category::Data if message.starts_with("missing field") => message,
            Category::Data => "a field has the wrong type".to_owned(),
            Category::Syntax | Category::Eof | Category::Io => format!(
                "not JSON (line {}, column {})",
                error.line(),
                error.column()
            ),
        };
        Self { what, cause }
    }
}

/// Parses a text that should be JSON.
pub(super) fn parse_json(what: &'static str, text: &[u8]) -> Result<Value, JsonError> {
    serde_json::from_slice(text).map_err(|error| JsonError::new(what, &error))
}

/// Reads a JSON object. serde alone would also accept an array, its elements as the fields in order.
pub(super) fn object<T: DeserializeOwned>(
    what: &'static str,
    value: Value,
) -> Result<T, JsonError> {
    if !value.is_object() {
        let cause = "not a JSON object".to_owned();
        return Err(JsonError { what, cause });
    }
    serde_json::from_value(value).map_err(|error| JsonError::new(what, &error))
}
