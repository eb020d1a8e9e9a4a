//! Resolving and reading manifests, with the answers registries give when something is wrong.

use crate::support::{chain, client, digest, quick, reference};
use oci_spec::image::MediaType;
use registry_client::{Client, Error, ErrorCode, RetryPolicy};
use std::time::{Duration, Instant};
use testkit::registry::{Action, FakeRegistry, Fault, sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[tokio::test]
async fn a_tag_resolves_by_head_alone() {
    let registry = FakeRegistry::start();
    let amd64 = registry.put_image("team/app", None, "amd64", &[b"one".to_vec()]);
    let index = registry.put_index("team/app", "1", &[(&amd64, "amd64")]);
    let client = client();
    let name = reference(&registry, "team/app:1");

    let found = client.resolve(&name).await.unwrap();
    assert_eq!(found.digest().to_string(), index);
    assert_eq!(found.media_type(), &MediaType::ImageIndex);
    assert_eq!(registry.count("GET", "/manifests/"), 0);

    let fetched = client.manifest(&name, None).await.unwrap();
    assert_eq!(fetched.descriptor, found);
    assert_eq!(sha256(&fetched.bytes), index);

    let child = client.manifest(&name, Some(&digest(&amd64))).await.unwrap();
    assert_eq!(child.descriptor.media_type(), &MediaType::ImageManifest);
    let pinned = client
        .resolve(&name.with_digest(&digest(&amd64)))
        .await
        .unwrap();
    assert_eq!(pinned.digest().to_string(), amd64);

    let requests = registry.requests();
    let head = requests
        .iter()
        .find(|request| request.method == "HEAD")
        .unwrap();
    let accept = head.header("accept").unwrap();
    for kind in [
        "image.index.v1",
        "image.manifest.v1",
        "manifest.list.v2",
        "manifest.v2+json",
    ] {
        assert!(accept.contains(kind), "{accept}");
    }
    assert_eq!(head.header("user-agent"), Some("kiln-test"));
    // One ping serves all requests.
    assert_eq!(
        registry
            .requests()
            .iter()
            .filter(|r| r.path == "/v2/")
            .count(),
        1
    );
}

#[tokio::test]
async fn get_is_used_where_head_is_not_enough() {
    let cases = [
        Fault::on("HEAD", "/manifests/").with(Action::Header("Docker-Content-Digest".into(), None)),
        Fault::on("HEAD", "/manifests/").with(Action::Header(
            "Content-Type".into(),
            Some("text/plain".into()),
        )),
        Fault::on("HEAD", "/manifests/").with(Action::Chunked),
        Fault::on("HEAD", "/manifests/").status(405),
        Fault::on("HEAD", "/manifests/").status(501),
    ];
    for fault in cases {
        let registry = FakeRegistry::start();
        let image = registry.put_image("app", Some("1"), "amd64", &[]);
        let shown = format!("{fault:?}");
        registry.fault(fault);
        let found = client().resolve(&reference(&registry, "app:1")).await;
        assert_eq!(found.unwrap().digest().to_string(), image, "{shown}");
        assert_eq!(registry.count("GET", "/manifests/"), 1, "{shown}");
    }
}

#[tokio::test]
async fn a_chunked_manifest_without_type_and_digest_is_read() {
    let registry = FakeRegistry::start();
    let image = registry.put_image("app", Some("1"), "amd64", &[]);
    registry.fault(
        Fault::on("GET", "/manifests/")
            .with(Action::Chunked)
            .with(Action::Header(
                "Content-Type".into(),
                Some("application/json; charset=utf-8".into()),
            ))
            .with(Action::Header("Docker-Content-Digest".into(), None)),
    );
    let fetched = client()
        .manifest(&reference(&registry, "app:1"), None)
        .await
        .unwrap();
    assert_eq!(fetched.descriptor.digest().to_string(), image);
    assert_eq!(fetched.descriptor.media_type(), &MediaType::ImageManifest);
}

#[tokio::test]
async fn bodies_are_verified() {
    let registry = FakeRegistry::start();
    let image = registry.put_image("app", Some("1"), "amd64", &[]);
    let by_tag = reference(&registry, "app:1");
    let by_digest = by_tag.with_digest(&digest(&image));
    let other = sha256(b"other");

    registry.fault(Fault::on("GET", "/manifests/").with(Action::Corrupt));
    for name in [&by_tag, &by_digest] {
        let error = client().manifest(name, None).await.unwrap_err();
        assert!(
            matches!(&error, Error::DigestMismatch { expected, .. } if *expected == image),
            "{error}"
        );
    }
    registry.heal();
    registry.fault(Fault::on_any("/manifests/").with(Action::Header(
        "Docker-Content-Digest".into(),
        Some(other.clone()),
    )));
    let error = client().manifest(&by_tag, None).await.unwrap_err();
    assert!(
        matches!(&error, Error::DigestMismatch { expected, .. } if *expected == other),
        "{error}"
    );
    let error = client().resolve(&by_digest).await.unwrap_err();
    assert!(
        matches!(&error, Error::DigestMismatch { actual, .. } if *actual == other),
        "{error}"
    );
}

#[tokio::test]
async fn too_large_manifests_are_not_read() {
    for chunked in [false, true] {
        let registry = FakeRegistry::start();
        registry.put_image("app", Some("1"), "amd64", &[]);
        let mut fault = Fault::on("GET", "/manifests/").with(Action::Huge(1 << 40));
        if chunked {
            fault = fault.with(Action::Chunked);
        }
        registry.fault(fault);
        let error = client()
            .manifest(&reference(&registry, "app:1"), None)
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::ManifestTooLarge {
                    limit: 4_194_304,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_is_no_manifest_is_refused() {
    let both = r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#;
    let docker =
        format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER}","config":{{}},"layers":[]}}"#);
    let cases = [
        (MANIFEST, "not json", "bad JSON"),
        (MANIFEST, "[]", "bad JSON"),
        (MANIFEST, "{}", "no schemaVersion 2"),
        (
            MANIFEST,
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            "schema version 1 is not supported",
        ),
        (MANIFEST, both, "both an index and a manifest"),
        (MANIFEST, &docker, "the registry calls it"),
        (
            MANIFEST,
            r#"{"schemaVersion":2,"manifests":[]}"#,
            "has not the fields of",
        ),
        (
            "text/plain",
            r#"{"schemaVersion":2}"#,
            "has not the fields of",
        ),
        (
            "text/plain",
            r#"{"schemaVersion":2,"mediaType":"a/b"}"#,
            "media type a/b is not supported",
        ),
    ];
    for (media_type, body, expected) in cases {
        let registry = FakeRegistry::start();
        registry.put_manifest("app", Some("1"), media_type, body);
        let error = client()
            .manifest(&reference(&registry, "app:1"), None)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{body}: {error}");
        assert!(!error.is_retryable());
    }
    let registry = FakeRegistry::start();
    registry.put_manifest("app", Some("1"), DOCKER, docker);
    let fetched = client()
        .manifest(&reference(&registry, "app:1"), None)
        .await
        .unwrap();
    assert_eq!(fetched.descriptor.media_type().to_string(), DOCKER);
}

#[tokio::test]
async fn unknown_names_carry_the_registrys_words() {
    let registry = FakeRegistry::start();
    let name = reference(&registry, "nope:1");
    let error = client().resolve(&name).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(
        error.to_string(),
        format!(
            "could not GET {}/v2/nope/manifests/1: the registry answered 404 Not Found: \
             MANIFEST_UNKNOWN: manifest unknown",
            registry.url()
        )
    );
    assert_eq!(error.messages()[0].code, Some(ErrorCode::ManifestUnknown));
    assert_eq!(registry.count("HEAD", "/manifests/"), 1);
}

#[tokio::test]
async fn all_error_codes_are_known() {
    let codes = [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
        "TOOMANYREQUESTS",
    ];
    let registry = FakeRegistry::start();
    let name = reference(&registry, "app:1");
    let client = client();
    for code in codes {
        registry.heal();
        registry.fault(Fault::on_any("/manifests/").error(403, code, "said\u{1b}[31m so"));
        let error = client.manifest(&name, None).await.unwrap_err();
        let message = &error.messages()[0];
        let known = message.code.clone().unwrap();
        assert!(!matches!(known, ErrorCode::Other(_)), "{code}");
        assert_eq!(known.name(), code);
        assert!(
            error
                .to_string()
                .ends_with(&format!("403 Forbidden: {code}: said [31m so")),
            "{error}"
        );
        assert!(error.is_denied());
        assert!(error.hint().is_some());
    }
    registry.heal();
    registry.fault(Fault::on_any("/manifests/").error(400, "OWN_CODE", ""));
    let error = client.manifest(&name, None).await.unwrap_err();
    assert!(
        error.to_string().ends_with("400 Bad Request: OWN_CODE"),
        "{error}"
    );
}

#[tokio::test]
async fn passing_failures_are_waited_out() {
    let cases = [
        Fault::on_any("/manifests/").status(500),
        Fault::on_any("/manifests/").status(503),
        Fault::on_any("/manifests/").error(429, "TOOMANYREQUESTS", "slow down"),
        Fault::on_any("/manifests/").with(Action::Reset(0)),
        Fault::on("GET", "/manifests/").with(Action::Short(10)),
        Fault::on("GET", "/manifests/").with(Action::Reset(10)),
        Fault::on_any("/manifests/").with(Action::Delay(Duration::from_millis(600))),
        Fault::on_any("/v2/").status(502),
    ];
    for fault in cases {
        let registry = FakeRegistry::start();
        let image = registry.put_image("app", Some("1"), "amd64", &[]);
        let shown = format!("{fault:?}");
        registry.fault(fault.times(2));
        let client = client();
        let name = reference(&registry, "app:1");
        let resolved = client
            .resolve(&name)
            .await
            .unwrap_or_else(|error| panic!("{shown}: {}", chain(&error)));
        assert_eq!(resolved.digest().to_string(), image);
        let fetched = client.manifest(&name, None).await;
        fetched.unwrap_or_else(|error| panic!("{shown}: {}", chain(&error)));
    }
}

#[tokio::test]
async fn attempts_are_bounded() {
    let registry = FakeRegistry::start();
    registry.fault(Fault::on_any("/manifests/").status(500));
    let error = client()
        .manifest(&reference(&registry, "app:1"), None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Status { status: 500, .. }),
        "{error}"
    );
    assert_eq!(registry.count("GET", "/manifests/"), 4);

    // Also where it is the ping that fails.
    let registry_without_ping = FakeRegistry::start();
    registry_without_ping.fault(Fault::on_any("/v2/").status(500));
    let name = reference(&registry_without_ping, "app:1");
    client().resolve(&name).await.unwrap_err();
    assert_eq!(registry_without_ping.count("GET", "/v2/"), 4);

    let once = RetryPolicy {
        attempts: 1,
        ..quick().retry
    };
    let client = Client::new(registry_client::ClientOptions {
        retry: once,
        ..quick()
    });
    client
        .manifest(&reference(&registry, "app:1"), None)
        .await
        .unwrap_err();
    assert_eq!(registry.count("GET", "/manifests/"), 5);
}

#[tokio::test]
async fn retry_after_is_obeyed_within_bounds() {
    let too_many = |value: &str| Action::Answer {
        status: 429,
        headers: vec![
            ("Retry-After".to_owned(), value.to_owned()),
            (
                "Date".to_owned(),
                "Sun, 06 Nov 1994 08:49:37 GMT".to_owned(),
            ),
        ],
        body: Vec::new(),
    };
    for (value, least) in [
        ("1", 1000),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 1000),
        ("nonsense", 0),
    ] {
        let registry = FakeRegistry::start();
        registry.put_image("app", Some("1"), "amd64", &[]);
        registry.fault(Fault::on_any("/manifests/").with(too_many(value)).times(1));
        let start = Instant::now();
        client()
            .resolve(&reference(&registry, "app:1"))
            .await
            .unwrap();
        assert!(
            start.elapsed() >= Duration::from_millis(least),
            "{value}: {:?}",
            start.elapsed()
        );
    }
    let registry = FakeRegistry::start();
    registry.fault(Fault::on_any("/manifests/").with(too_many("3600")));
    let start = Instant::now();
    let error = client()
        .resolve(&reference(&registry, "app:1"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Status { status: 429, .. }),
        "{error}"
    );
    assert!(error.hint().is_some());
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(registry.count("HEAD", "/manifests/"), 1);
}
