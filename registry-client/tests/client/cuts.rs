//! Long transfers over a line that breaks twenty times.
//!
//! `KILN_TEST_CUT_MB=500` makes the blob that long; otherwise it is short enough for every day.

use crate::support::{chain, descriptor, quick};
use oci_spec::image::Digest;
use registry_client::{
    BlobSource, Client, ClientOptions, PushedHow, Reference, RetryPolicy, Timeouts,
};
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::registry::{Behaviour, FakeRegistry, sha256};
use testkit::{Cutter, DockerRegistry, RegistrySetup, Way};

const CUTS: usize = 20;
const BLOCK: u64 = 64 * 1024;

fn size() -> u64 {
    let megabytes = std::env::var("KILN_TEST_CUT_MB").ok();
    let megabytes = megabytes.and_then(|text| text.parse::<u64>().ok());
    // Not a whole number of blocks.
    megabytes.unwrap_or(40) * 1_000_000 + 12_345
}

/// Random numbers that are the same each time.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Twenty places in so many bytes.
fn places(size: u64, seed: u64) -> Vec<u64> {
    let mut state = seed;
    (0..CUTS).map(|_| random(&mut state) % size).collect()
}

/// A blob that is made as it is read: blocks of one noise, each with its number.
pub(crate) struct Made {
    size: u64,
    noise: Vec<u8>,
    digest: Digest,
}

impl Made {
    pub(crate) fn new(size: u64) -> Self {
        let mut made = Self {
            size,
            noise: crate::support::noise(usize::try_from(BLOCK).unwrap()),
            digest: crate::support::digest(&sha256(b"")),
        };
        let mut buffer = vec![0; 64 * 1024];
        let mut offset = 0;
        let mut hasher = <sha2::Sha256 as sha2::Digest>::new();
        loop {
            let length = made.read_at(offset, &mut buffer).unwrap();
            if length == 0 {
                break;
            }
            sha2::Digest::update(&mut hasher, &buffer[..length]);
            offset += length as u64;
        }
        let mut text = "sha256:".to_owned();
        for byte in sha2::Digest::finalize(hasher) {
            let _ = write!(text, "{byte:02x}");
        }
        made.digest = crate::support::digest(&text);
        made
    }
}

impl BlobSource for Made {
    fn known(&self) -> Option<(Digest, u64)> {
        Some((self.digest.clone(), self.size))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut at = offset;
        let mut filled = 0;
        while filled < buffer.len() && at < self.size {
            let mut block = self.noise.clone();
            block[..8].copy_from_slice(&(at / BLOCK).to_le_bytes());
            let start = usize::try_from(at % BLOCK).unwrap();
            let left = usize::try_from((self.size - at).min(BLOCK)).unwrap();
            let length = (block.len() - start).min(buffer.len() - filled).min(left);
            buffer[filled..filled + length].copy_from_slice(&block[start..start + length]);
            filled += length;
            at += length as u64;
        }
        Ok(filled)
    }
}

fn patient() -> Client {
    Client::new(ClientOptions {
        retry: RetryPolicy {
            attempts: RetryPolicy::default().attempts,
            ..quick().retry
        },
        timeouts: Timeouts {
            idle: Duration::from_secs(20),
            ..Timeouts::default()
        },
        ..quick()
    })
}

#[allow(clippy::print_stdout)]
fn report(what: &str, cutter: &Cutter, way: Way, start: Instant) {
    println!(
        "{what}: {} cuts, {:.1} MB went over for {:.1} MB, {:.1} s",
        cutter.cuts(),
        cutter.passed(way) as f64 / 1e6,
        size() as f64 / 1e6,
        start.elapsed().as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g03_a_pull_goes_on_after_twenty_cuts() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let made: Arc<dyn BlobSource> = Arc::new(Made::new(size()));
    let at_registry = Reference::parse(&format!("{}/app", registry.host())).unwrap();
    let blob = patient().push_blob(&at_registry, &made, &[]).await.unwrap();

    let cutter = Cutter::start(&registry.host(), Way::Down, &places(size(), 7));
    let start = Instant::now();
    let through = Reference::parse(&format!("{}/app", cutter.host())).unwrap();
    let mut offset = 0;
    let mut wrong = 0;
    let mut expected = Vec::new();
    let mut sink = |chunk: &[u8]| {
        expected.resize(chunk.len(), 0);
        assert_eq!(made.read_at(offset, &mut expected)?, chunk.len());
        wrong += usize::from(expected != chunk);
        offset += chunk.len() as u64;
        Ok(())
    };
    let descriptor = descriptor(blob.digest.as_ref(), usize::try_from(size()).unwrap());
    let result = patient().blob(&through, &descriptor, &mut sink).await;
    result.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!((offset, wrong), (size(), 0));
    report("pull from docker-registry", &cutter, Way::Down, start);
    assert_eq!(cutter.cuts(), CUTS);
    // What was under way at a cut comes again, and nothing else.
    assert!(cutter.passed(Way::Down) < size() + CUTS as u64 * 4_000_000 / 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g04_a_push_goes_on_after_twenty_cuts() {
    let registry = FakeRegistry::start();
    for (what, chunk_minimum) in [("one PUT", None), ("chunks", Some(5_000_000))] {
        registry.behave(Behaviour {
            chunk_minimum,
            signed_locations: true,
            ..Behaviour::default()
        });
        let made: Arc<dyn BlobSource> = Arc::new(Made::new(size()));
        let cutter = Cutter::start(&registry.host(), Way::Up, &places(size(), 11));
        let start = Instant::now();
        let app = Reference::parse(&format!(
            "{}/{}",
            cutter.host(),
            what.replace(' ', "-").to_lowercase()
        ));
        let pushed = patient().push_blob(&app.unwrap(), &made, &[]).await;
        let pushed = pushed.unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
        assert_eq!((pushed.how, pushed.size), (PushedHow::Uploaded, size()));
        report(&format!("push in {what}"), &cutter, Way::Up, start);
        assert_eq!(cutter.cuts(), CUTS, "{what}");
        // What the registry has is not sent again.
        assert!(cutter.passed(Way::Up) < size() + CUTS as u64 * 1_000_000 / 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g04_a_push_to_a_registry_that_forgets_ends_well_too() {
    // That registry drops a session whose request broke off, so each cut costs what went before it.
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let made: Arc<dyn BlobSource> = Arc::new(Made::new(size()));
    let cutter = Cutter::start(&registry.host(), Way::Up, &places(size(), 13));
    let start = Instant::now();
    let app = Reference::parse(&format!("{}/app", cutter.host())).unwrap();
    let pushed = patient().push_blob(&app, &made, &[]).await;
    let pushed = pushed.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!((pushed.how, pushed.size), (PushedHow::Uploaded, size()));
    report("push to docker-registry", &cutter, Way::Up, start);
    assert_eq!(cutter.cuts(), CUTS);
    assert!(cutter.passed(Way::Up) < 2 * size() + CUTS as u64 * 100_000);
}
