//! What pushes need: upload sessions, mounts, manifests that are taken, lists, referrers.
//!
//! Keeps all in memory; what goes wrong is `fault`'s.

use super::fault::error_body;
use super::http::{Answer, Body};
use super::{Manifest, OCI_INDEX, Received, State, sha256};
use serde_json::{Value, json};
use std::sync::Arc;

/// How a registry that takes pushes differs from the plainest one.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// `OCI-Chunk-Min-Length`; shorter chunks are refused, but for the last.
    pub chunk_minimum: Option<u64>,
    /// Mounts are answered by a session.
    pub refuses_mounts: bool,
    /// `Location` without scheme and host.
    pub relative_locations: bool,
    /// `Location` has a query, which changes with each answer; an old one is refused.
    pub signed_locations: bool,
    /// A session whose request broke off is lost, as it is with the registry of the distribution project.
    pub forgets_broken_uploads: bool,
    /// Requests with longer bodies are answered 413.
    pub longest_body: Option<u64>,
    /// Only so many bytes of a chunk are taken; the answer's `Range` says so.
    pub takes_at_most: Option<u64>,
    /// Lists of referrers, and `OCI-Subject`.
    pub referrers: bool,
    /// Entries of a list's page, whatever is asked for; 0 for no pages.
    pub page: usize,
    /// Repositories that a search of version 1 finds, by name and description.
    pub search: Vec<(String, String)>,
}

/// An upload under way.
#[derive(Default)]
pub(super) struct Session {
    repository: String,
    pub(super) bytes: Vec<u8>,
    /// Changes with each answer.
    step: u64,
    last_chunk: Option<u64>,
}

/// A request of a push with its body.
pub(super) struct Push<'a> {
    pub(super) request: &'a Received,
    pub(super) body: &'a [u8],
    /// All of the body came.
    pub(super) whole: bool,
}

pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = Body::from(error_body(code, message));
    Answer::new(status, body).header("Content-Type", "application/json")
}

fn json(status: u16, value: &Value) -> Answer {
    Answer::new(status, Body::from(value.to_string().into_bytes()))
        .header("Content-Type", "application/json")
}

fn empty(status: u16) -> Answer {
    Answer::new(status, Body::from(Vec::new()))
}

/// A value of a query, with its percent signs read.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    let mut text = value.to_owned();
    for (code, plain) in [("%3A", ":"), ("%2F", "/"), ("%20", " "), ("+", " ")] {
        text = text.replace(code, plain);
    }
    Some(text)
}

/// `POST /v2/NAME/blobs/uploads/`.
pub(super) fn start(state: &mut State, push: &Push<'_>, repository: &str, query: &str) -> Answer {
    if let (Some(digest), Some(from)) = (parameter(query, "mount"), parameter(query, "from"))
        && !state.behaviour.refuses_mounts
        && let Some(bytes) = state.blob(&from, &digest).cloned()
    {
        state.keep(repository, &digest, bytes);
        return empty(201)
            .header("Location", format!("/v2/{repository}/blobs/{digest}"))
            .header("Docker-Content-Digest", digest);
    }
    if let Some(digest) = parameter(query, "digest") {
        return finish(state, repository, &digest, push.body.to_vec());
    }
    let id = format!("upload-{}", state.sessions_made);
    state.sessions_made += 1;
    let session = Session {
        repository: repository.to_owned(),
        ..Session::default()
    };
    state.sessions.insert(id.clone(), session);
    let mut answer = session_answer(state, push.request, &id, 202);
    if let Some(minimum) = state.behaviour.chunk_minimum {
        answer = answer.header("OCI-Chunk-Min-Length", minimum.to_string());
    }
    answer
}

/// Anything below `/v2/NAME/blobs/uploads/ID`.
pub(super) fn session(state: &mut State, push: &Push<'_>, id: &str, query: &str) -> Answer {
    let request = push.request;
    let behaviour = state.behaviour.clone();
    let Some(session) = state.sessions.get_mut(id) else {
        return error(
            404,
            "BLOB_UPLOAD_UNKNOWN",
            "blob upload unknown to registry",
        );
    };
    if behaviour.signed_locations {
        // A status may be asked with the location of the request that broke off.
        let given = parameter(query, "_state");
        let fits = given == Some(format!("secret-{id}-{}", session.step));
        if !fits {
            return error(400, "BLOB_UPLOAD_INVALID", "the state is not the last one");
        }
    }
    if behaviour
        .longest_body
        .is_some_and(|longest| push.body.len() as u64 > longest)
    {
        return Answer::new(413, Body::from(b"<html>too large</html>".to_vec()));
    }
    match request.method.as_str() {
        "GET" | "HEAD" => session_answer(state, request, id, 204),
        "DELETE" => {
            state.sessions.remove(id);
            empty(204)
        }
        "PATCH" => patch(state, push, id),
        "PUT" => {
            if let Some(refusal) = misplaced(session, request) {
                return refusal;
            }
            let Some(digest) = parameter(query, "digest") else {
                return error(400, "DIGEST_INVALID", "no digest");
            };
            if !push.whole {
                return broken(state, push, id);
            }
            let session = state.sessions.remove(id).unwrap_or_default();
            let bytes = [session.bytes, push.body.to_vec()].concat();
            finish(state, &session.repository, &digest, bytes)
        }
        _ => error(405, "UNSUPPORTED", "no such method"),
    }
}

fn patch(state: &mut State, push: &Push<'_>, id: &str) -> Answer {
    if !push.whole {
        return broken(state, push, id);
    }
    let behaviour = state.behaviour.clone();
    let Some(session) = state.sessions.get_mut(id) else {
        return empty(404);
    };
    if let Some(refusal) = misplaced(session, push.request) {
        return refusal;
    }
    let length = push.body.len() as u64;
    // Whether a short chunk is the last shows when a chunk comes after it.
    let short = |bytes: u64| {
        behaviour
            .chunk_minimum
            .is_some_and(|minimum| bytes < minimum)
    };
    if session.last_chunk.is_some_and(short) {
        return error(400, "SIZE_INVALID", "a chunk before was too short");
    }
    session.last_chunk = Some(length);
    let taken = behaviour
        .takes_at_most
        .map_or(length, |most| most.min(length));
    let taken = usize::try_from(taken).unwrap_or(usize::MAX);
    session.bytes.extend_from_slice(&push.body[..taken]);
    session.step += 1;
    session_answer(state, push.request, id, 202)
}

/// What remains of a request whose body broke off.
fn broken(state: &mut State, push: &Push<'_>, id: &str) -> Answer {
    if state.behaviour.forgets_broken_uploads {
        state.sessions.remove(id);
    } else if let Some(session) = state.sessions.get_mut(id) {
        session.bytes.extend_from_slice(push.body);
    }
    empty(400)
}

/// The refusal of a chunk that is not the next one.
fn misplaced(session: &Session, request: &Received) -> Option<Answer> {
    let range = request.header("content-range")?;
    let start = range.split_once('-')?.0.parse::<usize>().ok();
    (start != Some(session.bytes.len())).then(|| empty(416).header("Range", range_of(session)))
}

fn range_of(session: &Session) -> String {
    format!("0-{}", session.bytes.len().saturating_sub(1))
}

fn session_answer(state: &State, request: &Received, id: &str, status: u16) -> Answer {
    let behaviour = &state.behaviour;
    let session = &state.sessions[id];
    let mut location = format!("/v2/{}/blobs/uploads/{id}", session.repository);
    if behaviour.signed_locations {
        location.push_str(&format!("?_state=secret-{id}-{}", session.step));
    }
    if !behaviour.relative_locations {
        location = format!("http://{}{location}", request.host);
    }
    empty(status)
        .header("Location", location)
        .header("Range", range_of(session))
        .header("Docker-Upload-UUID", id)
}

fn finish(state: &mut State, repository: &str, digest: &str, bytes: Vec<u8>) -> Answer {
    if sha256(&bytes) != digest {
        let message = "provided digest did not match uploaded content";
        return error(400, "DIGEST_INVALID", message);
    }
    state.keep(repository, digest, Arc::new(bytes));
    empty(201)
        .header("Location", format!("/v2/{repository}/blobs/{digest}"))
        .header("Docker-Content-Digest", digest)
}

/// `PUT /v2/NAME/manifests/REFERENCE`.
pub(super) fn take_manifest(
    state: &mut State,
    push: &Push<'_>,
    repository: &str,
    selector: &str,
) -> Answer {
    let Ok(value) = serde_json::from_slice::<Value>(push.body) else {
        return error(400, "MANIFEST_INVALID", "manifest invalid");
    };
    let digest = sha256(push.body);
    if selector.contains(':') && selector != digest {
        return error(
            400,
            "DIGEST_INVALID",
            "provided digest did not match uploaded content",
        );
    }
    let list = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let digest_of = |entry: &Value| entry["digest"].as_str().unwrap_or_default().to_owned();
    let blobs = list("layers").filter(|layer| layer.get("urls").is_none());
    for entry in value.get("config").into_iter().chain(blobs) {
        if state.blob(repository, &digest_of(entry)).is_none() {
            return error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry");
        }
    }
    for entry in list("manifests") {
        let key = (repository.to_owned(), digest_of(entry));
        // Lists may name blobs, as build caches do. The fallback list of referrers may name what is not there.
        let known = state.manifests.contains_key(&key) || state.blob(repository, &key.1).is_some();
        if !known && !selector.starts_with("sha256-") {
            return error(400, "MANIFEST_BLOB_UNKNOWN", "manifest unknown to registry");
        }
    }
    if !selector.contains(':') {
        let key = (repository.to_owned(), selector.to_owned());
        state.tags.insert(key, digest.clone());
    }
    let manifest = Manifest {
        media_type: push
            .request
            .header("content-type")
            .unwrap_or_default()
            .to_owned(),
        bytes: Arc::new(push.body.to_vec()),
    };
    let key = (repository.to_owned(), digest.clone());
    state.manifests.insert(key, manifest);
    let mut answer = empty(201)
        .header("Location", format!("/v2/{repository}/manifests/{digest}"))
        .header("Docker-Content-Digest", digest);
    let subject = value["subject"]["digest"].as_str();
    if let Some(subject) = subject.filter(|_| state.behaviour.referrers) {
        answer = answer.header("OCI-Subject", subject);
    }
    answer
}

/// `DELETE /v2/NAME/manifests/REFERENCE`.
pub(super) fn delete_manifest(state: &mut State, repository: &str, selector: &str) -> Answer {
    let key = (repository.to_owned(), selector.to_owned());
    if !selector.contains(':') {
        return match state.tags.remove(&key) {
            Some(_) => empty(202),
            None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        };
    }
    if state.manifests.remove(&key).is_none() {
        return error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    }
    state
        .tags
        .retain(|(name, _), digest| name != repository || digest != selector);
    empty(202)
}

/// `GET /v2/NAME/referrers/DIGEST`.
pub(super) fn referrers(state: &State, repository: &str, subject: &str) -> Answer {
    if !state.behaviour.referrers {
        return Answer::new(404, Body::from(b"404 page not found\n".to_vec()));
    }
    let mut found: Vec<Value> = Vec::new();
    for ((name, digest), manifest) in &state.manifests {
        let value: Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
        if name == repository && value["subject"]["digest"] == subject {
            found.push(json!({
                "mediaType": manifest.media_type,
                "digest": digest,
                "size": manifest.bytes.len(),
                "artifactType": value["artifactType"],
            }));
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found});
    Answer::new(200, Body::from(index.to_string().into_bytes())).header("Content-Type", OCI_INDEX)
}

/// `GET /v2/NAME/tags/list`.
pub(super) fn tags(state: &State, repository: &str, path: &str, query: &str) -> Answer {
    let all = state.tags.keys().filter(|(name, _)| name == repository);
    let all: Vec<String> = all.map(|(_, tag)| tag.clone()).collect();
    if all.is_empty() {
        return error(404, "NAME_UNKNOWN", "repository name not known to registry");
    }
    let (page, link) = page(state, all, path, query);
    with_link(json(200, &json!({"name": repository, "tags": page})), link)
}

/// `GET /v2/_catalog`.
pub(super) fn catalog(state: &State, path: &str, query: &str) -> Answer {
    let all = state.manifests.keys().map(|(name, _)| name.clone());
    let (page, link) = page(state, all.collect(), path, query);
    with_link(json(200, &json!({"repositories": page})), link)
}

fn with_link(answer: Answer, link: Option<String>) -> Answer {
    match link {
        Some(link) => answer.header("Link", link),
        None => answer,
    }
}

/// The part of a list that is asked for, in order, and the link to the next.
fn page(
    state: &State,
    mut all: Vec<String>,
    path: &str,
    query: &str,
) -> (Vec<String>, Option<String>) {
    all.sort();
    all.dedup();
    let last = parameter(query, "last").unwrap_or_default();
    all.retain(|name| *name > last);
    let asked = parameter(query, "n").and_then(|n| n.parse().ok());
    let most = match state.behaviour.page {
        0 => asked.unwrap_or(usize::MAX),
        page => page,
    };
    if all.len() <= most {
        return (all, None);
    }
    all.truncate(most);
    let last = all.last().cloned().unwrap_or_default();
    let link = format!("<{path}?last={last}&n={most}>; rel=\"next\"");
    (all, Some(link))
}

/// `GET /v1/search`.
pub(super) fn search(state: &State, query: &str) -> Answer {
    let term = parameter(query, "q").unwrap_or_default();
    let found = state.behaviour.search.iter();
    let found: Vec<Value> = found
        .filter(|(name, _)| name.contains(&term))
        .map(|(name, description)| {
            json!({"name": name, "description": description, "star_count": 7, "is_official": true})
        })
        .collect();
    json(
        200,
        &json!({"num_results": found.len(), "query": term, "results": found}),
    )
}
