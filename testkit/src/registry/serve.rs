//! From a request to its answer: the routes of the distribution protocol and of the token service.

use super::fault::{self, Action};
use super::http::{self, Answer, Body, Incoming};
use super::{Received, Shared, State};
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How soon an idle connection notices that the registry stops.
const POLL: Duration = Duration::from_millis(50);

/// Serves one connection until either side ends it.
pub(super) fn connection(shared: &Arc<Shared>, stream: &TcpStream) {
    if stream.set_read_timeout(Some(POLL)).is_err() || stream.set_nodelay(true).is_err() {
        return;
    }
    while !shared.stopping.load(Ordering::SeqCst) {
        match http::peek(stream) {
            Incoming::Nothing => {}
            Incoming::Closed => return,
            Incoming::Foreign => {
                let mut out = stream;
                let _ = out.write_all(
                    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n",
                );
                return;
            }
            Incoming::Request(request, length) => {
                if !one(shared, stream, &request, length) {
                    return;
                }
            }
        }
    }
}

/// Answers one request; `false` ends the connection.
fn one(shared: &Arc<Shared>, stream: &TcpStream, request: &Received, length: usize) -> bool {
    let head_only = request.method == "HEAD";
    let answer = {
        let mut state = shared.state();
        state.log.push(request.clone());
        state.in_flight += 1;
        state.most_in_flight = state.most_in_flight.max(state.in_flight);
        answer(&mut state, request, &shared.address.to_string())
    };
    let mut counted = true;
    let mut ending = || {
        if std::mem::take(&mut counted) {
            shared.state().in_flight -= 1;
        }
    };
    let consumed = answer.resets() || http::consume(stream, length).is_ok();
    let goes_on = consumed && answer.send(stream, head_only, &mut ending).unwrap_or(false);
    ending();
    goes_on
}

fn answer(state: &mut State, request: &Received, address: &str) -> Answer {
    let actions = state
        .faults
        .iter_mut()
        .find_map(|fault| fault.take(request))
        .unwrap_or_default();
    let ranges = !actions
        .iter()
        .any(|action| matches!(action, Action::IgnoreRange));
    let mut answer = route(state, request, address, ranges);
    fault::apply(actions, request, &mut answer);
    answer
}

fn route(state: &mut State, request: &Received, address: &str, ranges: bool) -> Answer {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return error(405, "UNSUPPORTED", "only pulls are served");
    }
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    if path == "/token" {
        return token(state, query);
    }
    if let Some(refusal) = refuse(state, request, path, address) {
        return refusal;
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return error(404, "NAME_UNKNOWN", "no such page");
    };
    if rest.is_empty() {
        let body = Body::from(b"{}".to_vec());
        return Answer::new(200, body).header("Docker-Distribution-Api-Version", "registry/2.0");
    }
    if let Some((repository, selector)) = rest.rsplit_once("/manifests/") {
        return manifest(state, repository, selector);
    }
    match rest.rsplit_once("/blobs/") {
        Some((_, digest)) => blob(state, request, digest, ranges),
        None => error(404, "NAME_UNKNOWN", "no such route"),
    }
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = Body::from(fault::error_body(code, message));
    Answer::new(status, body).header("Content-Type", "application/json")
}

fn manifest(state: &State, repository: &str, selector: &str) -> Answer {
    let tag = (repository.to_owned(), selector.to_owned());
    let digest = state.tags.get(&tag).map_or(selector, String::as_str);
    let key = (repository.to_owned(), digest.to_owned());
    match state.manifests.get(&key) {
        Some(manifest) => Answer::new(200, Body::Bytes(Arc::clone(&manifest.bytes), 0))
            .header("Content-Type", &manifest.media_type)
            .header("Docker-Content-Digest", digest),
        None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    }
}

fn blob(state: &State, request: &Received, digest: &str, ranges: bool) -> Answer {
    let Some(bytes) = state.blobs.get(digest) else {
        return error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    let size = bytes.len();
    let range = request.header("range").filter(|_| ranges);
    let start = range
        .and_then(|range| range.strip_prefix("bytes="))
        .and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    let answer = match start {
        None => Answer::new(200, Body::Bytes(Arc::clone(bytes), 0)),
        Some(start) if start < size => {
            let range = format!("bytes {start}-{}/{size}", size - 1);
            Answer::new(206, Body::Bytes(Arc::clone(bytes), start)).header("Content-Range", range)
        }
        Some(_) => return error(416, "BLOB_UNKNOWN", "range not satisfiable"),
    };
    answer
        .header("Content-Type", "application/octet-stream")
        .header("Docker-Content-Digest", digest)
}

/// Gives a token to anybody, for the scope that is asked.
fn token(state: &mut State, query: &str) -> Answer {
    let Some(rule) = &mut state.tokens else {
        return error(404, "UNSUPPORTED", "no tokens here");
    };
    let scope = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("scope="))
        .map(|scope| scope.replace("%3A", ":").replace("%2F", "/"))
        .unwrap_or_default();
    rule.issued += 1;
    let token = format!("secret-token-{}", rule.issued);
    rule.given.insert(token.clone(), scope);
    let body = serde_json::json!({"token": token, "expires_in": rule.lifetime});
    Answer::new(200, Body::from(body.to_string().into_bytes()))
        .header("Content-Type", "application/json")
}

/// The challenge for a request without a fitting token.
fn refuse(state: &State, request: &Received, path: &str, address: &str) -> Option<Answer> {
    let rule = state.tokens.as_ref()?;
    let repository = path
        .strip_prefix("/v2/")
        .and_then(|rest| {
            rest.rsplit_once("/manifests/")
                .or(rest.rsplit_once("/blobs/"))
        })
        .map(|(repository, _)| repository);
    let given = request
        .header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "))
        .and_then(|token| rule.given.get(token));
    let wanted = repository.map(|repository| format!("repository:{repository}:pull"));
    if given.is_some() && (wanted.is_none() || given == wanted.as_ref()) {
        return None;
    }
    let mut challenge = format!("Bearer realm=\"http://{address}/token\",service=\"fake\"");
    if let Some(wanted) = wanted {
        challenge.push_str(&format!(",scope=\"{wanted}\""));
    }
    let refusal = error(401, "UNAUTHORIZED", "authentication required");
    Some(refusal.header("WWW-Authenticate", challenge))
}
