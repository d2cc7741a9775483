//! Responses and errors in the form of pveproxy.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

pub(super) type ApiResponse = Response<Full<Bytes>>;

/// Why a request fails.
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    /// The reason phrase of the status line.
    reason: String,
    /// The parameter that is not valid, and why.
    parameter: Option<(&'static str, String)>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            parameter: None,
        }
    }

    pub(super) fn internal(reason: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, reason.to_string())
    }

    /// A parameter that is not valid.
    pub(super) fn parameter(name: &'static str, reason: impl Into<String>) -> Self {
        Self {
            parameter: Some((name, reason.into())),
            ..Self::new(StatusCode::BAD_REQUEST, "Parameter verification failed.")
        }
    }

    /// The token lacks all of these privileges, one of which is required.
    pub(super) fn forbidden(path: &str, privileges: &[&str]) -> Self {
        let privileges = privileges.join("|");
        Self::new(
            StatusCode::FORBIDDEN,
            format!("Permission check failed ({path}, {privileges})"),
        )
    }

    /// A response with the reason in its status line, as in every error response of pveproxy, and
    /// in its body.
    pub(super) fn response(&self) -> ApiResponse {
        let line: String = self
            .reason
            .chars()
            .map(|c| if c.is_ascii_graphic() { c } else { ' ' })
            .collect();
        let mut body = json!({ "data": null, "message": format!("{}\n", self.reason) });
        if let Some((name, reason)) = &self.parameter {
            body["errors"] = json!({ *name: reason });
        }
        let mut response = json_response(&body);
        *response.status_mut() = self.status;
        if let Ok(phrase) = ReasonPhrase::try_from(line.into_bytes()) {
            response.extensions_mut().insert(phrase);
        }
        // pveproxy closes the connection after an error.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// A response with the result of a request.
pub(super) fn data_response(data: Value) -> ApiResponse {
    json_response(&json!({ "data": data }))
}

fn json_response(body: &Value) -> ApiResponse {
    let mut response = Response::new(Full::from(body.to_string()));
    let json_type = HeaderValue::from_static("application/json;charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, json_type);
    response
}
