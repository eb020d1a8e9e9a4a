//! A web server on loopback: fixed answers by path, and the bare Git repositories of a folder. It remembers what it
//! was asked. For faults and conditions there is [`crate::http`], on which it stands.

use crate::http::{self, Request, Web, git_backend};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// One answer of status 200.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Content.
    pub body: Vec<u8>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
}

impl Answer {
    /// Content without further headers.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            headers: Vec::new(),
        }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

type Answers = Arc<Mutex<BTreeMap<String, Answer>>>;

/// A server; it stops when dropped.
#[derive(Debug)]
pub struct WebServer {
    web: Web,
    answers: Answers,
}

impl WebServer {
    /// Starts on a free port. Repositories in the folder are under `/git/`.
    ///
    /// # Panics
    /// No port of loopback can be had.
    #[must_use]
    pub fn start(repositories: Option<&Path>) -> Self {
        let answers = Answers::default();
        let known = Arc::clone(&answers);
        let folder = repositories.map(Path::to_owned);
        let web = Web::start(move |request| {
            let answer = {
                let known = known.lock().unwrap_or_else(PoisonError::into_inner);
                known.get(&request.path).cloned()
            };
            if let Some(Answer { body, headers }) = answer {
                return http::Answer {
                    headers,
                    ..http::Answer::ok(body)
                };
            }
            match (&folder, request.path.strip_prefix("/git")) {
                (Some(folder), Some(inside)) => {
                    let request = Request {
                        path: inside.to_owned(),
                        ..request.clone()
                    };
                    git_backend(folder, &request)
                }
                _ => http::Answer::status(404),
            }
        });
        Self { web, answers }
    }

    /// Answers a path (with a slash at its start) from now on.
    pub fn answer(&self, path: &str, answer: Answer) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(path.to_owned(), answer);
    }

    /// `http://127.0.0.1:PORT` and a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        self.web.url(path)
    }

    /// Paths asked for so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        let requests = self.web.requests();
        requests.into_iter().map(|request| request.path).collect()
    }
}
