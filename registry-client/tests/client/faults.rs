//! What servers do wrong while something is pulled, and what the client makes of it: in bounded time, with bounded
//! memory, and with a message that says what was wrong and nothing secret.

use crate::support::{chain, client, descriptor, digest, noise, pull, reference};
use registry_client::Client;
use std::time::{Duration, Instant};
use testkit::registry::{Action, FakeRegistry, Fault};

/// Bytes of the blob, enough not to fit into the buffers of a connection at the rate of a slow server.
const SIZE: usize = 100_000;

/// How an operation ends.
enum Ends {
    Well,
    /// With a message that has this in it.
    Badly(&'static str),
}

fn answer(status: u16, name: &str, value: &str) -> Action {
    Action::Answer {
        status,
        headers: vec![(name.to_owned(), value.to_owned())],
        body: Vec::new(),
    }
}

fn header(name: &str, value: &str) -> Action {
    Action::Header(name.to_owned(), Some(value.to_owned()))
}

/// What goes wrong, how often, and how a manifest and a blob end then.
#[allow(clippy::too_many_lines)] // A table.
fn faults() -> Vec<(&'static str, Vec<Action>, u32, Ends, Ends)> {
    use Ends::{Badly, Well};
    let challenge = |value: &str| vec![answer(401, "WWW-Authenticate", value)];
    let mut body = vec![b'['; 200_000];
    body.push(b']');
    vec![
        (
            "401 Basic",
            challenge("Basic realm=\"x\""),
            99,
            Badly("only Basic"),
            Badly("only Basic"),
        ),
        (
            "401 Negotiate",
            challenge("Negotiate"),
            99,
            Badly("only Negotiate"),
            Badly("only Negotiate"),
        ),
        (
            "401 Bearer",
            challenge("Bearer service=\"x\""),
            99,
            Badly("no URL as realm"),
            Badly("no URL as realm"),
        ),
        (
            "401 garbage",
            challenge("\"=,,=\""),
            99,
            Badly("401"),
            Badly("401"),
        ),
        (
            "401 nothing",
            vec![answer(401, "X", "y")],
            99,
            Badly("401"),
            Badly("401"),
        ),
        (
            "429 soon",
            vec![answer(429, "Retry-After", "0")],
            2,
            Well,
            Well,
        ),
        (
            "429 late",
            vec![answer(429, "Retry-After", "99999")],
            99,
            Badly("429"),
            Badly("429"),
        ),
        ("500 twice", vec![answer(500, "X", "y")], 2, Well, Well),
        (
            "500",
            vec![answer(500, "X", "y")],
            99,
            Badly("500"),
            Badly("500"),
        ),
        ("reset", vec![Action::Reset(50)], 2, Well, Well),
        (
            "resets",
            vec![Action::Reset(50)],
            99,
            Badly("could not read the body"),
            Badly("could not read the body"),
        ),
        ("short", vec![Action::Short(50)], 2, Well, Well),
        (
            "always short",
            vec![Action::Short(50)],
            99,
            Badly("after"),
            Badly("after"),
        ),
        (
            "corrupt",
            vec![Action::Corrupt],
            99,
            Badly("could not verify"),
            Badly("could not verify"),
        ),
        (
            "length too long",
            vec![header("Content-Length", "100100")],
            99,
            Badly("timed out"),
            Badly("expected 100000 bytes, got 100100"),
        ),
        (
            "length too short",
            vec![header("Content-Length", "100")],
            99,
            Badly("could not verify"),
            Badly("expected 100000 bytes, got 100"),
        ),
        (
            "length of many",
            vec![header("Content-Length", "99999999999999999999")],
            99,
            Badly("could not"),
            Badly("could not"),
        ),
        (
            "redirects",
            vec![Action::Redirect("/...".into())],
            99,
            Badly("too many redirects"),
            Badly("too many redirects"),
        ),
        (
            "redirect to a file",
            vec![Action::Redirect("file:///etc/passwd".into())],
            99,
            Badly("neither HTTP nor HTTPS"),
            Badly("neither HTTP nor HTTPS"),
        ),
        (
            "slow loris",
            vec![Action::Slow(1, Duration::from_millis(10))],
            99,
            Badly("timed out"),
            Badly("timed out"),
        ),
        (
            "slow loris in chunks",
            vec![Action::Slow(1, Duration::from_millis(10)), Action::Chunked],
            99,
            Badly("timed out"),
            Badly("timed out"),
        ),
        (
            "slow but fair",
            vec![Action::Slow(1000, Duration::from_millis(5))],
            99,
            Well,
            Well,
        ),
        (
            "huge",
            vec![Action::Huge(1 << 40)],
            99,
            Badly("larger than 4194304 bytes"),
            Badly("expected 100000 bytes, got 1099511627776"),
        ),
        (
            "huge in chunks",
            vec![Action::Huge(1 << 40), Action::Chunked],
            99,
            Badly("larger than 4194304 bytes"),
            Badly("expected 100000 bytes, got"),
        ),
        (
            "deep JSON",
            vec![Action::Body(body)],
            99,
            Badly("could not"),
            Badly("could not verify"),
        ),
        (
            "silence",
            vec![Action::Delay(Duration::from_secs(3))],
            99,
            Badly("timed out"),
            Badly("timed out"),
        ),
    ]
}

async fn check(
    what: &str,
    registry: &FakeRegistry,
    ended: Result<(), registry_client::Error>,
    ends: &Ends,
    start: Instant,
) {
    match (ended, ends) {
        (Ok(()), Ends::Well) => {}
        (Ok(()), Ends::Badly(_)) => panic!("{what}: it went well"),
        (Err(error), Ends::Well) => panic!("{what}: {}", chain(&error)),
        (Err(error), Ends::Badly(expected)) => {
            let text = chain(&error);
            assert!(text.contains(expected), "{what}: {text}");
            assert!(text.len() < 1000, "{what}: {text}");
        }
    }
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{what}: {:?}",
        start.elapsed()
    );
    assert!(registry.requests().len() < 30, "{what}");
}

async fn stocked(client: &Client) -> (FakeRegistry, String) {
    let registry = FakeRegistry::start();
    registry.put_image("app", Some("1"), "amd64", &[]);
    let blob = registry.put_blob(noise(SIZE));
    // The ping is over before anything goes wrong.
    client
        .resolve(&reference(&registry, "app:1"))
        .await
        .unwrap();
    (registry, blob)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g02_manifests_of_bad_servers() {
    for (what, actions, times, ends, _) in faults() {
        let client = client();
        let (registry, _) = stocked(&client).await;
        let fault = Fault::on("GET", "/manifests/").times(times);
        registry.fault(actions.into_iter().fold(fault, Fault::with));
        let start = Instant::now();
        let fetched = client.manifest(&reference(&registry, "app:1"), None).await;
        check(what, &registry, fetched.map(|_| ()), &ends, start).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g03_blobs_of_bad_servers() {
    for (what, actions, times, _, ends) in faults() {
        let client = client();
        let (registry, blob) = stocked(&client).await;
        let fault = Fault::on("GET", "/blobs/").times(times);
        registry.fault(actions.into_iter().fold(fault, Fault::with));
        let start = Instant::now();
        let app = reference(&registry, "app:1");
        let (bytes, ended) = pull(&client, &app, &descriptor(&blob, SIZE)).await;
        assert!(bytes.len() <= SIZE, "{what}");
        check(what, &registry, ended, &ends, start).await;
    }
}

#[tokio::test]
async fn g02_indexes_in_indexes_are_handed_out_one_by_one() {
    let registry = FakeRegistry::start();
    let image = registry.put_image("app", None, "amd64", &[]);
    let mut found = registry.put_nested("app", "deep", &image, 20);
    let client = client();
    let app = reference(&registry, "app:deep");
    for _ in 0..20 {
        let fetched = client.manifest(&app, Some(&digest(&found))).await.unwrap();
        let index: serde_json::Value = serde_json::from_slice(&fetched.bytes).unwrap();
        index["manifests"][0]["digest"]
            .as_str()
            .unwrap()
            .clone_into(&mut found);
    }
    assert_eq!(found, image);
}
