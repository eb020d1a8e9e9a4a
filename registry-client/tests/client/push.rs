//! Pushes: what goes over the wire for a blob and a manifest.

use crate::support::{chain, client, noise, reference};
use registry_client::{BlobSource, MemoryBlob, PushedHow, Reference};
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use testkit::registry::{Behaviour, FakeRegistry, sha256};
use testkit::{DockerRegistry, RegistrySetup};

pub(crate) const SIZE: usize = 3_000_000;

/// A blob that is made while it is uploaded.
#[derive(Default)]
pub(crate) struct Growing {
    state: Mutex<(Vec<u8>, bool)>,
    grown: Condvar,
}

impl Growing {
    pub(crate) fn add(&self, bytes: &[u8]) {
        self.state.lock().unwrap().0.extend_from_slice(bytes);
        self.grown.notify_all();
    }

    pub(crate) fn end(&self) {
        self.state.lock().unwrap().1 = true;
        self.grown.notify_all();
    }
}

impl BlobSource for Growing {
    fn known(&self) -> Option<(oci_spec::image::Digest, u64)> {
        let state = self.state.lock().unwrap();
        let digest = || crate::support::digest(&sha256(&state.0));
        state.1.then(|| (digest(), state.0.len() as u64))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let offset = usize::try_from(offset).unwrap();
        let mut state = self.state.lock().unwrap();
        while state.0.len() <= offset && !state.1 {
            state = self.grown.wait(state).unwrap();
        }
        let rest = &state.0[offset.min(state.0.len())..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

pub(crate) fn memory(bytes: impl Into<bytes::Bytes>) -> Arc<dyn BlobSource> {
    Arc::new(MemoryBlob::new(bytes))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g04_blobs_reach_a_real_registry_in_every_form() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let client = client();
    let name = |text: &str| Reference::parse(&format!("{}/{text}", registry.host())).unwrap();
    let app = name("team/app:1");
    for size in [0, 1, 5_000_000] {
        let bytes = noise(size);
        let blob = memory(bytes.clone());
        let pushed = client.push_blob(&app, &blob, &[]).await;
        let pushed = pushed.unwrap_or_else(|error| panic!("{size}: {}", chain(&error)));
        assert_eq!(pushed.digest.to_string(), sha256(&bytes));
        assert_eq!(
            (pushed.how, pushed.sent),
            (PushedHow::Uploaded, size as u64)
        );
        let again = client.push_blob(&app, &blob, &[]).await.unwrap();
        assert_eq!((again.how, again.sent), (PushedHow::Existed, 0));
        let elsewhere = name("other/app:1");
        let sources = [name("none"), app.clone()];
        let mounted = client.push_blob(&elsewhere, &blob, &sources).await;
        assert_eq!(mounted.unwrap().how, PushedHow::Mounted, "{size}");
    }
    for size in [0, 1, 3_000_000] {
        let bytes = [noise(size), size.to_le_bytes().to_vec()].concat();
        let bytes = if size == 0 { Vec::new() } else { bytes };
        let growing = Arc::new(Growing::default());
        let source: Arc<dyn BlobSource> = growing.clone();
        let making = bytes.clone();
        let maker = std::thread::spawn(move || {
            for piece in making.chunks(400_000) {
                growing.add(piece);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            growing.end();
        });
        let pushed = client.push_blob(&name("grown:1"), &source, &[]).await;
        let pushed = pushed.unwrap_or_else(|error| panic!("{size}: {}", chain(&error)));
        maker.join().unwrap();
        assert_eq!(pushed.digest.to_string(), sha256(&bytes));
        assert!(
            client
                .has_blob(&name("grown"), &pushed.digest)
                .await
                .unwrap()
        );
    }
}

/// A registry of a behaviour, and what is pushed to it.
pub(crate) fn target(
    behaviour: Behaviour,
) -> (FakeRegistry, Reference, Vec<u8>, Arc<dyn BlobSource>) {
    let registry = FakeRegistry::start();
    registry.behave(behaviour);
    let app = reference(&registry, "team/app:1");
    let bytes = noise(SIZE);
    let source = memory(bytes.clone());
    (registry, app, bytes, source)
}

/// The requests for blobs, without the host and what the registry made up.
pub(crate) fn uploads(registry: &FakeRegistry) -> Vec<String> {
    let requests = registry.requests();
    let blobs = requests
        .iter()
        .filter(|request| request.path.contains("/blobs/"));
    blobs
        .map(|request| {
            let last = match request.path.split_once("/uploads/") {
                None => "BLOB".to_owned(),
                Some((_, rest)) => rest.split(['=', '?']).next().unwrap().to_owned(),
            };
            let range = request.header("content-range");
            let range = range.map(|range| format!(" {range}")).unwrap_or_default();
            format!("{} {last}{range}", request.method)
        })
        .collect()
}

#[tokio::test]
async fn g04_what_goes_over_the_wire() {
    let m = 1_000_000;
    let cases: [(Behaviour, &[&str]); 6] = [
        (
            Behaviour::default(),
            &["HEAD BLOB", "POST ", "PUT upload-0"],
        ),
        (
            Behaviour {
                relative_locations: true,
                signed_locations: true,
                ..Behaviour::default()
            },
            &["HEAD BLOB", "POST ", "PUT upload-0"],
        ),
        (
            // Chunks are asked for, and are as long as makes sense.
            Behaviour {
                chunk_minimum: Some(m),
                signed_locations: true,
                ..Behaviour::default()
            },
            &[
                "HEAD BLOB",
                "POST ",
                "PATCH upload-0 0-2999999",
                "PUT upload-0",
            ],
        ),
        (
            // A proxy before the registry takes no long bodies.
            Behaviour {
                longest_body: Some(m + 500_000),
                ..Behaviour::default()
            },
            &[
                "HEAD BLOB",
                "POST ",
                "PUT upload-0",
                "HEAD BLOB",
                "GET upload-0",
                "PATCH upload-0 0-1499999",
                "PATCH upload-0 1500000-2999999",
                "PUT upload-0",
            ],
        ),
        (
            // Part of a chunk is taken, and the answer says so.
            Behaviour {
                chunk_minimum: Some(m),
                takes_at_most: Some(2 * m),
                ..Behaviour::default()
            },
            &[
                "HEAD BLOB",
                "POST ",
                "PATCH upload-0 0-2999999",
                "PATCH upload-0 2000000-2999999",
                "PUT upload-0",
            ],
        ),
        (
            Behaviour {
                refuses_mounts: true,
                ..Behaviour::default()
            },
            &["HEAD BLOB", "POST ", "PUT upload-0"],
        ),
    ];
    for (behaviour, expected) in cases {
        let shown = format!("{behaviour:?}");
        let (registry, app, bytes, source) = target(behaviour);
        let pushed = client().push_blob(&app, &source, &[]).await;
        let pushed = pushed.unwrap_or_else(|error| panic!("{shown}: {}", chain(&error)));
        assert_eq!(uploads(&registry), expected, "{shown}");
        let kept = registry
            .pushed_blob("team/app", pushed.digest.as_ref())
            .unwrap();
        assert!(*kept == bytes, "{shown}");
        let again = client().push_blob(&app, &source, &[]).await.unwrap();
        assert_eq!(again.how, PushedHow::Existed);
    }
}
