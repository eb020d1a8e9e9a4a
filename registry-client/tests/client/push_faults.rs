//! What goes wrong while something is pushed, and what the client does.

use crate::push::{Growing, SIZE, memory, target, uploads};
use crate::support::{chain, client, noise, quick, reference};
use registry_client::{BlobSource, Client, Error, PushedHow};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::registry::{Action, Behaviour, FakeRegistry, Fault, sha256};

const UPLOADS: &str = "/uploads/";

fn cut(method: &str, at: u64) -> Fault {
    Fault::on(method, UPLOADS).with(Action::CutUpload(at))
}

fn plain() -> Behaviour {
    Behaviour::default()
}

/// A registry as the distribution project's: what breaks off is lost.
fn forgetful() -> Behaviour {
    Behaviour {
        forgets_broken_uploads: true,
        signed_locations: true,
        ..plain()
    }
}

fn chunked() -> Behaviour {
    Behaviour {
        chunk_minimum: Some(1_000_000),
        signed_locations: true,
        relative_locations: true,
        ..plain()
    }
}

#[tokio::test]
async fn g04_a_blob_gets_there_whatever_breaks() {
    let put = || Fault::on("PUT", UPLOADS);
    let post = || Fault::on("POST", UPLOADS);
    let lost = || put().with(Action::LoseUploads).times(1);
    let answer = |status, name: &str, value: &str| Action::Answer {
        status,
        headers: vec![(name.to_owned(), value.to_owned())],
        body: Vec::new(),
    };
    // What goes wrong, and how many bytes are sent for the three megabytes at most.
    let cases = [
        (plain(), post().status(500).times(2), 3.0),
        (
            plain(),
            post().with(answer(429, "Retry-After", "0")).times(2),
            3.0,
        ),
        (plain(), post().with(Action::NoAnswer).times(1), 3.0),
        (plain(), put().status(503).times(2), 9.0),
        (plain(), put().with(Action::NoAnswer).times(1), 3.0),
        // What the registry got is not sent again; some more had left already.
        (plain(), cut("PUT", 1_000_000).times(1), 5.0),
        (plain(), cut("PUT", 0).times(1), 6.0),
        (chunked(), cut("PATCH", 1_000_000).times(1), 5.0),
        (chunked(), cut("PATCH", 800_000).times(3), 9.0),
        (
            chunked(),
            Fault::on("PATCH", UPLOADS).with(Action::NoAnswer).times(1),
            6.0,
        ),
        (forgetful(), cut("PUT", 1_000_000).times(2), 9.0),
        (plain(), lost(), 6.0),
        (chunked(), lost(), 6.0),
        (
            chunked(),
            put().error(400, "BLOB_UPLOAD_INVALID", "x").times(1),
            6.0,
        ),
        (
            plain(),
            put().error(400, "DIGEST_INVALID", "x").times(1),
            6.0,
        ),
        // A registry that does not say how far it is, but knows.
        (
            chunked(),
            Fault::on("PATCH", UPLOADS)
                .with(Action::Header("Range".to_owned(), Some("0-0".to_owned())))
                .times(1),
            6.0,
        ),
        (
            chunked(),
            Fault::on("PATCH", UPLOADS).status(416).times(1),
            6.0,
        ),
        (
            plain(),
            put()
                .with(Action::SlowUpload(100, Duration::from_millis(700)))
                .times(1),
            6.0,
        ),
        (
            plain(),
            put()
                .with(Action::Delay(Duration::from_millis(700)))
                .times(1),
            3.0,
        ),
    ];
    for (behaviour, fault, megabytes) in cases {
        let shown = format!("{fault:?} of {behaviour:?}");
        let (registry, app, bytes, source) = target(behaviour);
        registry.fault(fault);
        let pushed = client().push_blob(&app, &source, &[]).await;
        let pushed = pushed.unwrap_or_else(|error| panic!("{shown}: {}", chain(&error)));
        let kept = registry.pushed_blob("team/app", pushed.digest.as_ref());
        assert!(*kept.unwrap() == bytes, "{shown}");
        let sent = pushed.sent as f64 / 1e6;
        assert!((3.0..=megabytes).contains(&sent), "{shown}: {sent} MB");
    }
}

#[tokio::test]
async fn g04_growing_blobs_get_there_whatever_breaks() {
    let cases = [
        (plain(), cut("PATCH", 1_000_000).times(1)),
        (plain(), Fault::on("PATCH", UPLOADS).status(500).times(1)),
        (chunked(), cut("PATCH", 700_000).times(2)),
        (forgetful(), cut("PATCH", 1_500_000).times(2)),
        (
            plain(),
            Fault::on("PUT", UPLOADS).with(Action::LoseUploads).times(1),
        ),
        (
            plain(),
            Fault::on("PUT", UPLOADS).with(Action::NoAnswer).times(1),
        ),
    ];
    for (behaviour, fault) in cases {
        let shown = format!("{fault:?} of {behaviour:?}");
        let (registry, app, bytes, _) = target(behaviour);
        registry.fault(fault);
        let growing = Arc::new(Growing::default());
        let source: Arc<dyn BlobSource> = growing.clone();
        let making = bytes.clone();
        let maker = std::thread::spawn(move || {
            for piece in making.chunks(250_000) {
                growing.add(piece);
                // Longer than the client waits for a server in all, so this must not count.
                std::thread::sleep(Duration::from_millis(50));
            }
            growing.end();
        });
        let pushed = client().push_blob(&app, &source, &[]).await;
        let pushed = pushed.unwrap_or_else(|error| panic!("{shown}: {}", chain(&error)));
        maker.join().unwrap();
        let kept = registry.pushed_blob("team/app", pushed.digest.as_ref());
        assert!(*kept.unwrap() == bytes, "{shown}");
        assert_eq!(pushed.size, SIZE as u64);
    }
}

#[allow(clippy::too_many_lines)] // A table.
#[tokio::test]
async fn g04_uploads_that_cannot_succeed_end_soon() {
    let on = |method: &str| Fault::on(method, UPLOADS);
    let location = |method: &str, location: Option<&str>| {
        let value = location.map(str::to_owned);
        on(method).with(Action::Header("Location".to_owned(), value))
    };
    let range = |range: &str| {
        let value = Some(range.to_owned());
        Fault::on("PATCH", UPLOADS).with(Action::Header("Range".to_owned(), value))
    };
    let cases = [
        (
            plain(),
            on("POST").error(403, "DENIED", "no\u{1b}[31m way"),
            "DENIED: no [31m way",
        ),
        (
            plain(),
            on("POST").error(404, "NAME_UNKNOWN", "who?"),
            "NAME_UNKNOWN: who?",
        ),
        (plain(), on("POST").status(500), "500 Internal Server Error"),
        (plain(), on("POST").status(200), "unexpected status 200"),
        (
            plain(),
            on("PUT").error(400, "DIGEST_INVALID", "not it"),
            "DIGEST_INVALID: not it",
        ),
        (
            plain(),
            on("PUT").with(Action::LoseUploads),
            "BLOB_UPLOAD_UNKNOWN",
        ),
        (
            plain(),
            on("PUT").error(403, "DENIED", "quota"),
            "DENIED: quota",
        ),
        (plain(), on("PUT").status(503), "503 Service Unavailable"),
        (forgetful(), cut("PUT", 10), "could not"),
        (plain(), location("POST", None), "no Location"),
        (
            plain(),
            location("POST", Some("file:///x?_state=hidden")),
            "neither HTTP nor HTTPS",
        ),
        (
            plain(),
            location("POST", Some("http://[x?_state=hidden")),
            "not a URL",
        ),
        (
            plain(),
            on("POST").with(Action::Redirect(
                "/v2/team/app/blobs/uploads/?_state=hidden".into(),
            )),
            "too many redirects",
        ),
        (
            chunked(),
            range("0-99999999"),
            "it has 100000000 bytes after the bytes 0 to 3000000",
        ),
        (
            Behaviour {
                longest_body: Some(1000),
                ..plain()
            },
            on("PATCH").times(0),
            "413 Payload Too Large",
        ),
        (
            plain(),
            on("PUT").with(Action::SlowUpload(100, Duration::from_millis(700))),
            "timed out",
        ),
    ];
    for (behaviour, fault, expected) in cases {
        let shown = format!("{fault:?} of {behaviour:?}");
        let (registry, app, _, source) = target(behaviour);
        registry.fault(fault);
        let start = Instant::now();
        let Err(error) = client().push_blob(&app, &source, &[]).await else {
            panic!("{shown}: it went well");
        };
        let text = chain(&error);
        assert!(text.contains(expected), "{shown}: {text}");
        assert!(
            !text.contains("hidden") && !format!("{error:?}").contains("hidden"),
            "{text}"
        );
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{shown}: {:?}",
            start.elapsed()
        );
        assert!(
            registry.requests().len() < 100,
            "{shown}: {:?}",
            uploads(&registry)
        );
    }
}

#[tokio::test]
async fn g04_mounts_and_what_is_done_without_them() {
    let mount = || Fault::on("POST", "mount=");
    let refusing = Behaviour {
        refuses_mounts: true,
        ..plain()
    };
    let cases = [
        (plain(), mount().times(0), PushedHow::Mounted),
        (refusing, mount().times(0), PushedHow::Uploaded),
        (
            plain(),
            mount().error(403, "DENIED", "not yours"),
            PushedHow::Uploaded,
        ),
        (plain(), mount().status(404), PushedHow::Uploaded),
        (
            plain(),
            mount().with(Action::Answer {
                status: 202,
                headers: Vec::new(),
                body: Vec::new(),
            }),
            PushedHow::Uploaded,
        ),
    ];
    for (behaviour, fault, how) in cases {
        let shown = format!("{fault:?} of {behaviour:?}");
        let (registry, app, bytes, source) = target(behaviour);
        registry.require_tokens(300);
        let base = reference(&registry, "base/image:1");
        client().push_blob(&base, &source, &[]).await.unwrap();
        registry.fault(fault);
        let elsewhere = registry_client::Reference::parse("elsewhere.example/base/image").unwrap();
        let from = [elsewhere, app.clone(), base];
        let pushed = client().push_blob(&app, &source, &from).await;
        let pushed = pushed.unwrap_or_else(|error| panic!("{shown}: {}", chain(&error)));
        assert_eq!(pushed.how, how, "{shown}");
        let sent = if how == PushedHow::Mounted {
            0
        } else {
            SIZE as u64
        };
        assert_eq!(pushed.sent, sent, "{shown}");
        let kept = registry.pushed_blob("team/app", pushed.digest.as_ref());
        assert!(*kept.unwrap() == bytes, "{shown}");
        // One mount was tried, at the one repository that could have it; its session was used.
        assert_eq!(registry.count("POST", "mount="), 1, "{shown}");
    }
    let (registry, app, _, source) = target(Behaviour {
        refuses_mounts: true,
        ..plain()
    });
    let from = ["a/b", "c/d"].map(|name| reference(&registry, name));
    client().push_blob(&app, &source, &from).await.unwrap();
    assert_eq!(
        uploads(&registry),
        [
            "HEAD BLOB",
            "POST mount",
            "POST mount",
            "DELETE upload-0",
            "PUT upload-1"
        ]
        .map(|line| line.replace("POST mount", "POST "))
    );
}

#[tokio::test]
async fn tokens_run_out_in_the_middle_of_a_push() {
    let (registry, app, bytes, source) = target(chunked());
    registry.require_tokens(300);
    let client = client();
    client
        .push_blob(&app, &memory(noise(10)), &[])
        .await
        .unwrap();
    registry.revoke_tokens();
    let pushed = client.push_blob(&app, &source, &[]).await.unwrap();
    registry.revoke_tokens();
    let config = client
        .push_blob(&app, &memory(noise(20)), &[])
        .await
        .unwrap();
    assert_eq!(config.how, PushedHow::Uploaded);
    assert!(
        *registry
            .pushed_blob("team/app", pushed.digest.as_ref())
            .unwrap()
            == bytes
    );
}

#[tokio::test]
async fn uploads_leave_the_token_behind() {
    // The upload's location and a redirect lead to another server, which must not see the token.
    for redirected in [false, true] {
        let (storage, _, bytes, _) = target(plain());
        let registry = FakeRegistry::start();
        registry.require_tokens(300);
        let app = reference(&registry, "team/app:1");
        let fault = Fault::on("POST", UPLOADS);
        registry.fault(if redirected {
            fault.with(Action::Redirect(format!("{}/...", storage.url())))
        } else {
            let elsewhere = Client::new(quick());
            let place = reference(&storage, "team/app:1");
            elsewhere
                .push_blob(&place, &memory(noise(5)), &[])
                .await
                .unwrap();
            storage.fault(Fault::on("PUT", "upload-9").with(Action::Answer {
                status: 201,
                headers: Vec::new(),
                body: Vec::new(),
            }));
            fault.with(Action::Answer {
                status: 202,
                headers: vec![(
                    "Location".to_owned(),
                    format!("{}/v2/x/blobs/uploads/upload-9", storage.url()),
                )],
                body: Vec::new(),
            })
        });
        let pushed = client().push_blob(&app, &memory(bytes), &[]).await.unwrap();
        assert_eq!(pushed.how, PushedHow::Uploaded);
        let seen = storage.requests();
        assert!(seen.iter().any(|request| request.method == "PUT"));
        assert!(
            seen.iter()
                .all(|request| request.header("authorization").is_none())
        );
        assert!(
            registry
                .requests()
                .iter()
                .any(|request| request.header("authorization").is_some())
        );
    }
}

/// A blob whose reading fails, or ends too early.
struct Bad(Option<io::ErrorKind>);

impl BlobSource for Bad {
    fn known(&self) -> Option<(oci_spec::image::Digest, u64)> {
        self.0
            .is_none()
            .then(|| (crate::support::digest(&sha256(b"x")), 100_000))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match (offset, self.0) {
            (0, _) => Ok(buffer.len().min(1000)),
            (_, Some(kind)) => Err(io::Error::new(kind, "the compressor gave up")),
            (_, None) => Ok(0),
        }
    }
}

#[tokio::test]
async fn a_source_that_fails_ends_it() {
    for (behaviour, kind, expected) in [
        (
            plain(),
            Some(io::ErrorKind::Other),
            "the compressor gave up",
        ),
        (
            chunked(),
            Some(io::ErrorKind::Other),
            "the compressor gave up",
        ),
        (plain(), None, "unexpected end of file"),
    ] {
        let (_registry, app, _, _) = target(behaviour);
        let source: Arc<dyn BlobSource> = Arc::new(Bad(kind));
        let error = client().push_blob(&app, &source, &[]).await.unwrap_err();
        assert!(matches!(error, Error::Source { .. }), "{}", chain(&error));
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}
