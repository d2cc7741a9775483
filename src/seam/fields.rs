//! Reading the members of a JSON object, each with its own rule.
//!
//! Members that are not read are ignored, so that a newer peer may send more. `null` counts as
//! absent. Messages name the member and never its value, because the value may be a key.

use serde_json::{Map, Value};
use thiserror::Error;

/// Why an object or one of its members was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FieldError {
    /// The value is not an object.
    #[error("it is not an object")]
    NotObject,
    /// A required member is absent.
    #[error("'{0}' is missing")]
    Missing(&'static str),
    /// A member does not follow its rule.
    #[error("'{0}' is malformed")]
    Malformed(&'static str),
}

/// The members of an object.
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn of(value: &'a Value) -> Result<Self, FieldError> {
        value.as_object().map(Self).ok_or(FieldError::NotObject)
    }

    /// A required member; `read` returns none if it is malformed.
    pub(super) fn required<T>(
        &self,
        name: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, FieldError> {
        self.optional(name, read)?.ok_or(FieldError::Missing(name))
    }

    /// A member that may be absent; `read` returns none if it is malformed.
    pub(super) fn optional<T>(
        &self,
        name: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, FieldError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or(FieldError::Malformed(name)),
        }
    }
}
