//! What goes wrong, for which requests, and how often.

use super::Received;
use super::http::{Answer, Body};
use std::time::Duration;

/// One thing that goes wrong with an answer.
#[derive(Clone, Debug)]
pub enum Action {
    /// This answer instead.
    Answer {
        /// Status.
        status: u16,
        /// Headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: Vec<u8>,
    },
    /// A redirect (307) to this URL, or to the same path there if it ends in `/...`.
    Redirect(String),
    /// Another body with a matching length; everything else stays.
    Body(Vec<u8>),
    /// A body of this many zero bytes.
    Huge(u64),
    /// One bit of the body is flipped.
    Corrupt,
    /// The connection ends in order after this many bytes of the body.
    Short(u64),
    /// The connection is reset after this many bytes of the body.
    Reset(u64),
    /// No `Content-Length`: the body comes in chunks of HTTP/1.1.
    Chunked,
    /// A range is not honoured.
    IgnoreRange,
    /// A header is set, or left out.
    Header(String, Option<String>),
    /// The answer comes late.
    Delay(Duration),
    /// The body comes in pieces of this many bytes, with a pause after each.
    Slow(u64, Duration),
    /// The request's body is read up to this many bytes, which are kept; then the connection is reset.
    CutUpload(u64),
    /// The request's body is read in pieces of this many bytes, with a pause before each.
    SlowUpload(u64, Duration),
    /// The request is done, but its answer never sent: the connection is reset instead.
    NoAnswer,
    /// All upload sessions are lost before the request is looked at.
    LoseUploads,
}

/// Which requests fail, and how.
#[derive(Clone, Debug)]
pub struct Fault {
    method: Option<String>,
    path_part: String,
    left: Option<u32>,
    actions: Vec<Action>,
}

impl Fault {
    /// Every request of a method whose path contains a text.
    #[must_use]
    pub fn on(method: &str, path_part: &str) -> Self {
        Self {
            method: Some(method.to_owned()),
            path_part: path_part.to_owned(),
            left: None,
            actions: Vec::new(),
        }
    }

    /// Every request whose path contains a text.
    #[must_use]
    pub fn on_any(path_part: &str) -> Self {
        Self {
            method: None,
            ..Self::on("", path_part)
        }
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.left = Some(count);
        self
    }

    /// What goes wrong; several things can at once.
    #[must_use]
    pub fn with(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }

    /// An error status, without a body.
    #[must_use]
    pub fn status(self, status: u16) -> Self {
        self.with(Action::Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        })
    }

    /// An error status with an error body of the distribution protocol.
    #[must_use]
    pub fn error(self, status: u16, code: &str, message: &str) -> Self {
        self.with(Action::Answer {
            status,
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            body: error_body(code, message),
        })
    }

    /// Uses the fault up once if it fits the request.
    pub(super) fn take(&mut self, request: &Received) -> Option<Vec<Action>> {
        let method_fits = self
            .method
            .as_ref()
            .is_none_or(|method| *method == request.method);
        if !method_fits || !request.path.contains(&self.path_part) || self.left == Some(0) {
            return None;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Some(self.actions.clone())
    }
}

pub(super) fn error_body(code: &str, message: &str) -> Vec<u8> {
    let body = serde_json::json!({"errors": [{"code": code, "message": message, "detail": null}]});
    body.to_string().into_bytes()
}

/// Applies what happens to the answer itself.
pub(super) fn apply(actions: Vec<Action>, request: &Received, answer: &mut Answer) {
    for action in actions {
        match action {
            Action::Answer {
                status,
                headers,
                body,
            } => {
                answer.status = status;
                answer.headers = headers;
                answer.body = Body::from(body);
            }
            Action::Redirect(target) => {
                answer.status = 307;
                let location = match target.strip_suffix("/...") {
                    Some(base) => format!("{base}{}", request.path),
                    None => target,
                };
                answer.headers = vec![("Location".to_owned(), location)];
                answer.body = Body::from(Vec::new());
            }
            Action::Body(bytes) => answer.body = Body::from(bytes),
            Action::Huge(size) => answer.body = Body::Zeros(size),
            Action::Corrupt => answer.body.flip_bit(),
            Action::Short(at) => answer.cut = Some((at, false)),
            Action::Reset(at) => answer.cut = Some((at, true)),
            Action::Chunked => answer.chunked = true,
            // Honoured before the answer is made.
            Action::IgnoreRange
            | Action::CutUpload(_)
            | Action::SlowUpload(..)
            | Action::NoAnswer
            | Action::LoseUploads => {}
            Action::Header(name, value) => {
                answer
                    .headers
                    .retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
                match value {
                    Some(value) => answer.headers.push((name, value)),
                    None if name.eq_ignore_ascii_case("content-length") => answer.no_length = true,
                    None => {}
                }
            }
            Action::Delay(time) => answer.delay = time,
            Action::Slow(piece, pause) => answer.slow = Some((piece, pause)),
        }
    }
}
