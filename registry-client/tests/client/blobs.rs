//! Blobs: streaming, verification, resumption, redirects, foreign layers.

use crate::support::{chain, client, descriptor, noise, pull, quick, reference};
use registry_client::{Client, ClientOptions, Error, Timeouts};
use std::time::Duration;
use testkit::registry::{Action, FakeRegistry, Fault, sha256};

const SIZE: usize = 3_000_000;

/// A registry with one blob, and the blob.
fn stocked() -> (FakeRegistry, Vec<u8>, String) {
    let registry = FakeRegistry::start();
    let bytes = noise(SIZE);
    let digest = registry.put_blob(bytes.clone());
    (registry, bytes, digest)
}

#[tokio::test]
async fn a_blob_comes_whole_whatever_breaks() {
    let blob = || Fault::on("GET", "/blobs/");
    // What goes wrong, and how many requests it takes.
    let cases = [
        (blob().times(0), 1),
        (blob().with(Action::Chunked), 1),
        (
            blob().with(Action::Slow(500_000, Duration::from_millis(20))),
            1,
        ),
        (blob().status(500).times(2), 3),
        (blob().with(Action::Reset(0)).times(1), 2),
        (blob().with(Action::Short(1_000_000)).times(1), 2),
        (blob().with(Action::Short(400_000)).times(3), 4),
        (blob().with(Action::Reset(1_000_000)).times(2), 3),
        (
            blob()
                .with(Action::Chunked)
                .with(Action::Short(1_000_000))
                .times(1),
            2,
        ),
        (
            blob()
                .with(Action::Delay(Duration::from_millis(700)))
                .times(1),
            2,
        ),
        (
            blob()
                .with(Action::Short(1_100_000))
                .with(Action::IgnoreRange)
                .times(1),
            2,
        ),
        // A body that stalls: the first piece comes, then nothing for too long.
        (
            blob()
                .with(Action::Slow(1_100_000, Duration::from_millis(700)))
                .times(1),
            2,
        ),
        (
            blob()
                .with(Action::Header("Content-Range".into(), None))
                .times(9),
            1,
        ),
    ];
    for (fault, requests) in cases {
        let shown = format!("{fault:?}");
        let (registry, bytes, digest) = stocked();
        registry.fault(fault);
        let (got, result) = pull(
            &client(),
            &reference(&registry, "app"),
            &descriptor(&digest, SIZE),
        )
        .await;
        result.unwrap_or_else(|error| panic!("{shown}: {}", chain(&error)));
        assert!(got == bytes, "{shown}");
        assert_eq!(registry.count("GET", "/blobs/"), requests, "{shown}");
    }
}

#[tokio::test]
async fn resumption_asks_for_the_rest_only() {
    let (registry, bytes, digest) = stocked();
    registry.fault(
        Fault::on("GET", "/blobs/")
            .with(Action::Short(1_000_000))
            .times(1),
    );
    let (got, result) = pull(
        &client(),
        &reference(&registry, "app"),
        &descriptor(&digest, SIZE),
    )
    .await;
    result.unwrap();
    assert!(got == bytes);
    let requests = registry.requests();
    let ranges: Vec<Option<&str>> = requests
        .iter()
        .filter(|request| request.path.contains("/blobs/"))
        .map(|request| request.header("range"))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=1000000-")]);
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let (registry, bytes, digest) = stocked();
    registry.fault(
        Fault::on("GET", "/blobs/")
            .with(Action::Short(1_000_000))
            .times(1),
    );
    registry.fault(Fault::on("GET", "/blobs/").with(Action::IgnoreRange));
    let (got, result) = pull(
        &client(),
        &reference(&registry, "app"),
        &descriptor(&digest, SIZE),
    )
    .await;
    result.unwrap();
    assert!(got == bytes);
}

#[tokio::test]
async fn steady_progress_outlives_the_attempt_limit() {
    let registry = FakeRegistry::start();
    let bytes = noise(9_000_000);
    let digest = registry.put_blob(bytes.clone());
    registry.fault(
        Fault::on("GET", "/blobs/")
            .with(Action::Short(1_200_000))
            .times(7),
    );
    let (got, result) = pull(
        &client(),
        &reference(&registry, "app"),
        &descriptor(&digest, bytes.len()),
    )
    .await;
    result.unwrap();
    assert!(got == bytes);
    assert_eq!(registry.count("GET", "/blobs/"), 8);

    registry.fault(Fault::on("GET", "/blobs/").with(Action::Short(1000)));
    let (got, result) = pull(
        &client(),
        &reference(&registry, "app"),
        &descriptor(&digest, bytes.len()),
    )
    .await;
    assert!(matches!(result, Err(Error::Body { .. })), "{result:?}");
    assert_eq!(got.len(), 4000);
}

#[tokio::test]
async fn wrong_content_is_refused() {
    let (registry, _, digest) = stocked();
    let name = reference(&registry, "app");
    registry.fault(Fault::on("GET", "/blobs/").with(Action::Corrupt));
    let (_, result) = pull(&client(), &name, &descriptor(&digest, SIZE)).await;
    assert!(
        matches!(&result, Err(Error::DigestMismatch { expected, .. }) if *expected == digest),
        "{result:?}"
    );
    assert_eq!(registry.count("GET", "/blobs/"), 1);

    // The registry's blob is longer or shorter than the descriptor says: nothing reaches the sink.
    registry.heal();
    for size in [SIZE - 1, SIZE + 1] {
        let (got, result) = pull(&client(), &name, &descriptor(&digest, size)).await;
        let Err(Error::SizeMismatch {
            expected, actual, ..
        }) = result
        else {
            panic!("{result:?}");
        };
        assert_eq!((expected, actual), (size as u64, SIZE as u64));
        assert!(got.is_empty());
    }
    // Without a length it shows only on the way.
    registry.fault(Fault::on("GET", "/blobs/").with(Action::Chunked));
    let (got, result) = pull(&client(), &name, &descriptor(&digest, SIZE - 1)).await;
    assert!(
        matches!(result, Err(Error::SizeMismatch { .. })),
        "{result:?}"
    );
    assert!(got.len() < SIZE);
    let (got, result) = pull(&client(), &name, &descriptor(&digest, SIZE + 1)).await;
    assert!(result.is_err());
    assert_eq!(got.len(), SIZE);
}

#[tokio::test]
async fn empty_blobs_and_other_algorithms() {
    let registry = FakeRegistry::start();
    let name = reference(&registry, "app");
    let empty = registry.put_blob(Vec::new());
    let (got, result) = pull(&client(), &name, &descriptor(&empty, 0)).await;
    result.unwrap();
    assert!(got.is_empty());

    let unknown = descriptor("blake3:abcdef", 1);
    let (_, result) = pull(&client(), &name, &unknown).await;
    assert!(
        matches!(result, Err(Error::UnsupportedDigest { .. })),
        "{result:?}"
    );

    // The registry keeps it by its sha256; the test is that the sha512 is what is verified.
    let sha512 = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                  2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
    registry.fault(Fault::on("GET", sha512).with(Action::Answer {
        status: 200,
        headers: Vec::new(),
        body: b"abc".to_vec(),
    }));
    let (got, result) = pull(&client(), &name, &descriptor(sha512, 3)).await;
    result.unwrap();
    assert_eq!(got, b"abc");
}

#[tokio::test]
async fn a_failing_sink_ends_it() {
    let (registry, _, digest) = stocked();
    let mut calls = 0;
    let mut sink = |_: &[u8]| {
        calls += 1;
        Err(std::io::Error::other("disk full"))
    };
    let name = reference(&registry, "app");
    let result = client()
        .blob(&name, &descriptor(&digest, SIZE), &mut sink)
        .await;
    let error = result.unwrap_err();
    assert_eq!(
        chain(&error),
        format!("could not store {digest}: disk full")
    );
    assert_eq!(calls, 1);
    assert_eq!(registry.count("GET", "/blobs/"), 1);
}

#[tokio::test]
async fn redirects_leave_the_token_behind() {
    let (storage, bytes, digest) = stocked();
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    let target = format!("{}/...", storage.url());
    registry.fault(Fault::on("GET", "/blobs/").with(Action::Redirect(target)));
    // A storage that breaks off is resumed through the registry, whose signed URLs may run out.
    storage.fault(
        Fault::on("GET", "/blobs/")
            .with(Action::Reset(1_000_000))
            .times(1),
    );

    let (got, result) = pull(
        &client(),
        &reference(&registry, "app"),
        &descriptor(&digest, SIZE),
    )
    .await;
    result.unwrap();
    assert!(got == bytes);
    let at_registry = registry.requests();
    let mut asked = at_registry
        .iter()
        .filter(|request| request.path.contains("/blobs/"));
    assert!(asked.all(|request| request.header("authorization").is_some()));
    let at_storage = storage.requests();
    assert_eq!(at_storage.len(), 2);
    assert!(
        at_storage
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
    // What was on its way when the connection was reset may be lost.
    let range = at_storage[1].header("range").unwrap();
    let from = range
        .strip_prefix("bytes=")
        .and_then(|rest| rest.strip_suffix('-'));
    let from: u64 = from.unwrap().parse().unwrap();
    assert!((1..=1_000_000).contains(&from), "{range}");
}

#[tokio::test]
async fn redirects_within_the_registry_keep_the_token() {
    let (registry, bytes, digest) = stocked();
    registry.require_tokens(300);
    let target = format!("/v2/app/blobs/{digest}?moved=1");
    let fault = Fault::on("GET", "/blobs/")
        .with(Action::Redirect(target))
        .times(1);
    registry.fault(fault);
    let (got, result) = pull(
        &client(),
        &reference(&registry, "app"),
        &descriptor(&digest, SIZE),
    )
    .await;
    result.unwrap();
    assert!(got == bytes);
}

#[tokio::test]
async fn bad_redirects_are_refused() {
    let cases = [
        ("file:///etc/passwd", "neither HTTP nor HTTPS"),
        ("http://[bad", "not a URL"),
        ("/v2/app/blobs/again?token=hidden", "too many redirects"),
    ];
    for (target, expected) in cases {
        let registry = FakeRegistry::start();
        registry.fault(Fault::on("GET", "/blobs/").with(Action::Redirect(target.to_owned())));
        let blob = descriptor(&sha256(b"x"), 1);
        let (_, result) = pull(&client(), &reference(&registry, "app"), &blob).await;
        let error = result.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains("hidden"), "{error}");
    }
}

#[tokio::test]
async fn foreign_layers_come_from_their_urls() {
    let (elsewhere, bytes, digest) = stocked();
    elsewhere.fault(
        Fault::on("GET", "/blobs/")
            .with(Action::Short(1_000_000))
            .times(1),
    );
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    let mut layer = descriptor(&digest, SIZE);
    layer.set_urls(Some(vec![
        format!("{}/v2/gone/{digest}", elsewhere.url()),
        format!("{}/v2/any/blobs/{digest}", elsewhere.url()),
    ]));
    let (got, result) = pull(&client(), &reference(&registry, "app"), &layer).await;
    result.unwrap();
    assert!(got == bytes);
    let requests = elsewhere.requests();
    assert!(
        requests
            .iter()
            .all(|request| request.header("authorization").is_none())
    );

    layer.set_urls(Some(vec![
        "ftp://a.example/x".to_owned(),
        "http://a.example/x?sig=hidden".to_owned(),
    ]));
    let (_, result) = pull(&client(), &reference(&registry, "app"), &layer).await;
    let error = result.unwrap_err().to_string();
    assert!(
        error.contains("must be HTTPS") && !error.contains("hidden"),
        "{error}"
    );
}

#[tokio::test]
async fn missing_blobs_are_named() {
    let registry = FakeRegistry::start();
    let blob = descriptor(&sha256(b"x"), 1);
    let (_, result) = pull(&client(), &reference(&registry, "app"), &blob).await;
    let error = result.unwrap_err();
    assert!(error.is_not_found());
    assert!(
        error
            .to_string()
            .ends_with("BLOB_UNKNOWN: blob unknown to registry"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_host_gets_only_so_many_requests_at_once() {
    let registry = FakeRegistry::start();
    let options = ClientOptions {
        requests_per_host: 3,
        // A request that is given up and sent again would be counted twice by the registry.
        timeouts: Timeouts {
            idle: Duration::from_secs(60),
            ..Timeouts::default()
        },
        ..quick()
    };
    let client = Client::new(options);
    registry.fault(Fault::on("GET", "/blobs/").with(Action::Delay(Duration::from_millis(50))));
    let mut pulls = Vec::new();
    for number in 0..12_u8 {
        let digest = registry.put_blob(vec![number; 1000]);
        let (client, name) = (client.clone(), reference(&registry, "app"));
        pulls.push(tokio::spawn(async move {
            pull(&client, &name, &descriptor(&digest, 1000)).await.1
        }));
    }
    for result in pulls {
        result.await.unwrap().unwrap();
    }
    assert_eq!(registry.most_in_flight(), 3);
}
