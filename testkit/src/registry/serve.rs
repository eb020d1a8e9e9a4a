//! From a request to its answer: the routes of the distribution protocol and of the token service.

use super::fault::{self, Action};
use super::http::{self, Answer, Body, Incoming};
use super::push::{self, Push, error};
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
    let actions = {
        let mut state = shared.state();
        state.log.push(request.clone());
        state.in_flight += 1;
        state.most_in_flight = state.most_in_flight.max(state.in_flight);
        let fault = state
            .faults
            .iter_mut()
            .find_map(|fault| fault.take(request));
        fault.unwrap_or_default()
    };
    // A session answers one request after the other, also when the client has given one of them up.
    let session = request.path.split_once("/uploads/").map(|(_, id)| id);
    let session = session.map(|id| id.split('?').next().unwrap_or_default().to_owned());
    let session = session.filter(|id| !id.is_empty());
    if let Some(id) = &session {
        while !shared.state().busy.insert(id.clone()) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let goes_on = answered(shared, stream, (request, length), actions);
    if let Some(id) = &session {
        shared.state().busy.remove(id);
    }
    goes_on
}

fn answered(
    shared: &Arc<Shared>,
    stream: &TcpStream,
    (request, length): (&Received, usize),
    actions: Vec<Action>,
) -> bool {
    let head_only = request.method == "HEAD";
    if http::has_body(request) {
        return with_body(shared, stream, request, length, actions);
    }
    let answer = answer(
        &mut shared.state(),
        request,
        &shared.address.to_string(),
        actions,
    );
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

/// Answers a request with a body, all of which is read first unless a fault says otherwise.
fn with_body(
    shared: &Arc<Shared>,
    stream: &TcpStream,
    request: &Received,
    length: usize,
    actions: Vec<Action>,
) -> bool {
    let mut limits = http::BodyLimits::default();
    for action in &actions {
        match action {
            Action::CutUpload(at) => limits.cut = Some(*at),
            Action::SlowUpload(piece, pause) => limits.slow = Some((*piece, *pause)),
            Action::LoseUploads => shared.state().sessions.clear(),
            _ => {}
        }
    }
    let silent = actions
        .iter()
        .any(|action| matches!(action, Action::NoAnswer));
    let read = http::consume(stream, length)
        .and_then(|()| http::read_body(stream, request, &limits, &shared.stopping));
    let Ok((body, whole)) = read else {
        shared.state().in_flight -= 1;
        return false;
    };
    let answer = {
        let mut state = shared.state();
        state.in_flight -= 1;
        state.uploaded += body.len() as u64;
        let push = Push {
            request,
            body: &body,
            whole,
        };
        let mut answer = if replaced(&actions) {
            Answer::new(200, Body::from(Vec::new()))
        } else {
            route_push(&mut state, &push, &shared.address.to_string())
        };
        fault::apply(actions, request, &mut answer);
        answer
    };
    whole && !silent && answer.send(stream, false, &mut || {}).unwrap_or(false)
}

fn answer(state: &mut State, request: &Received, address: &str, actions: Vec<Action>) -> Answer {
    let ranges = !actions
        .iter()
        .any(|action| matches!(action, Action::IgnoreRange));
    if actions
        .iter()
        .any(|action| matches!(action, Action::LoseUploads))
    {
        state.sessions.clear();
    }
    let mut answer = if replaced(&actions) {
        Answer::new(200, Body::from(Vec::new()))
    } else {
        route(state, request, address, ranges)
    };
    fault::apply(actions, request, &mut answer);
    answer
}

/// Whether the request is answered by a fault alone, and so changes nothing.
fn replaced(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::Answer { .. } | Action::Redirect(_)))
}

/// Requests that write, and those with bodies.
fn route_push(state: &mut State, push: &Push<'_>, address: &str) -> Answer {
    let request = push.request;
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    if let Some(refusal) = refuse(state, request, path, address) {
        return refusal;
    }
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    let method = request.method.as_str();
    if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
        return match (method, id) {
            ("POST", "") => push::start(state, push, repository, query),
            _ => push::session(state, push, id, query),
        };
    }
    match (method, rest.rsplit_once("/manifests/")) {
        ("PUT", Some((repository, selector))) => {
            push::take_manifest(state, push, repository, selector)
        }
        ("DELETE", Some((repository, selector))) => {
            push::delete_manifest(state, repository, selector)
        }
        _ => error(405, "UNSUPPORTED", "no such method"),
    }
}

fn route(state: &mut State, request: &Received, address: &str, ranges: bool) -> Answer {
    if !matches!(request.method.as_str(), "GET" | "HEAD") || request.path.contains("/uploads/") {
        let push = Push {
            request,
            body: &[],
            whole: true,
        };
        return route_push(state, &push, address);
    }
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    if path == "/token" {
        return token(state, query);
    }
    if let Some(refusal) = refuse(state, request, path, address) {
        return refusal;
    }
    if path == "/v1/search" && !state.behaviour.search.is_empty() {
        return push::search(state, query);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return error(404, "NAME_UNKNOWN", "no such page");
    };
    if rest.is_empty() {
        let body = Body::from(b"{}".to_vec());
        return Answer::new(200, body).header("Docker-Distribution-Api-Version", "registry/2.0");
    }
    if rest == "_catalog" {
        return push::catalog(state, path, query);
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return push::tags(state, repository, path, query);
    }
    if let Some((repository, digest)) = rest.rsplit_once("/referrers/") {
        return push::referrers(state, repository, digest);
    }
    if let Some((repository, selector)) = rest.rsplit_once("/manifests/") {
        return manifest(state, repository, selector);
    }
    match rest.rsplit_once("/blobs/") {
        Some((repository, digest)) => blob(state, request, (repository, digest), ranges),
        None => error(404, "NAME_UNKNOWN", "no such route"),
    }
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

fn blob(
    state: &State,
    request: &Received,
    (repository, digest): (&str, &str),
    ranges: bool,
) -> Answer {
    let Some(bytes) = state.blob(repository, digest) else {
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
    let scopes = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="));
    let scopes: Vec<String> = scopes
        .map(|scope| {
            let pair = format!("scope={scope}");
            push::parameter(&pair, "scope").unwrap_or_default()
        })
        .collect();
    let scope = scopes.join(" ").replace("%2C", ",");
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
                .or(rest.rsplit_once("/referrers/"))
                .or(rest.split_once("/tags/"))
                .or(rest.split_once("/blobs/"))
        })
        .map(|(repository, _)| repository);
    let given = request
        .header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "))
        .and_then(|token| rule.given.get(token));
    let action = match request.method.as_str() {
        "GET" | "HEAD" => "pull",
        "DELETE" if path.contains("/manifests/") => "delete",
        _ => "push",
    };
    let allows = |scope: &str, repository: &str| {
        let resource = format!("repository:{repository}:");
        let actions = scope.strip_prefix(&resource);
        actions.is_some_and(|actions| actions.split(',').any(|allowed| allowed == action))
    };
    let allowed = given.is_some_and(|given| {
        repository.is_none_or(|repository| given.split(' ').any(|scope| allows(scope, repository)))
    });
    if allowed {
        return None;
    }
    let actions = match action {
        "pull" => "pull",
        "delete" => "delete",
        _ => "pull,push",
    };
    let wanted = repository.map(|repository| format!("repository:{repository}:{actions}"));
    let mut challenge = format!("Bearer realm=\"http://{address}/token\",service=\"fake\"");
    if let Some(wanted) = wanted {
        challenge.push_str(&format!(",scope=\"{wanted}\""));
    }
    let refusal = error(401, "UNAUTHORIZED", "authentication required");
    Some(refusal.header("WWW-Authenticate", challenge))
}
