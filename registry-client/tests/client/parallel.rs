//! A hundred transfers at once through one client: none waits for ever, and memory stays small.
//!
//! `KILN_TEST_PARALLEL_MB=20` makes the blobs that long; otherwise they are short enough for every day.

use crate::cuts::Made;
use crate::support::{chain, descriptor};
use registry_client::{BlobSource, Client, ClientOptions, PushedHow, Reference};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::{DockerRegistry, RegistrySetup};

const TRANSFERS: u64 = 100;
/// Kilobytes that the process may have had at most.
const MEMORY: u64 = 200_000;
/// The registry, for the run of this program whose memory is looked at.
const REGISTRY: &str = "KILN_TEST_PARALLEL_REGISTRY";

fn size() -> u64 {
    let megabytes = std::env::var("KILN_TEST_PARALLEL_MB").ok();
    let megabytes = megabytes.and_then(|text| text.parse::<u64>().ok());
    megabytes.unwrap_or(2) * 1_000_000
}

#[test]
#[allow(clippy::print_stdout)]
fn g03_g04_a_hundred_pulls_and_pushes_at_once() {
    let Some(registry) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    // A process of its own, as memory is counted by process and other tests run in this one.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "parallel::transfers", "--ignored", "--nocapture"])
        .env(REGISTRY, registry.host())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    let most = said
        .split("VmHWM:")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let most: u64 = most.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    println!(
        "{}",
        said.lines()
            .filter(|line| line.contains("MB"))
            .collect::<String>()
    );
    assert!(most < MEMORY, "{most} kB");
}

fn made(number: u64) -> Arc<dyn BlobSource> {
    Arc::new(Made::new(size() + number))
}

#[test]
#[ignore = "run by g03_g04_a_hundred_pulls_and_pushes_at_once with a registry"]
#[allow(clippy::print_stdout)]
fn transfers() {
    let Ok(host) = std::env::var(REGISTRY) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let client = Client::new(ClientOptions::default());
    let app = Reference::parse(&format!("{host}/team/app")).unwrap();
    // What is pulled is there before.
    runtime.block_on(together(&client, &app, 0..TRANSFERS / 2, false));
    let start = Instant::now();
    let both = async {
        let other = Reference::parse(&format!("{host}/team/other")).unwrap();
        tokio::join!(
            together(&client, &app, 0..TRANSFERS / 2, true),
            together(&client, &other, TRANSFERS / 2..TRANSFERS, false)
        );
    };
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(300), both).await })
        .expect("no transfer waits for ever");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let most = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    println!(
        "{TRANSFERS} transfers of {} MB in {:.1} s, {most}",
        size() / 1_000_000,
        start.elapsed().as_secs_f64()
    );
}

/// Transfers of numbered blobs, all at once.
async fn together(client: &Client, name: &Reference, numbers: std::ops::Range<u64>, pull: bool) {
    let mut tasks = Vec::new();
    for number in numbers {
        let (client, name) = (client.clone(), name.clone());
        tasks.push(tokio::spawn(async move {
            let source = tokio::task::spawn_blocking(move || made(number))
                .await
                .unwrap();
            let (digest, size) = source.known().unwrap();
            if !pull {
                let pushed = client.push_blob(&name, &source, &[]).await;
                let pushed = pushed.unwrap_or_else(|error| panic!("{}", chain(&error)));
                assert_eq!(pushed.how, PushedHow::Uploaded);
                return;
            }
            let mut received = 0;
            let mut sink = |chunk: &[u8]| {
                received += chunk.len() as u64;
                Ok(())
            };
            let blob = descriptor(digest.as_ref(), usize::try_from(size).unwrap());
            client.blob(&name, &blob, &mut sink).await.unwrap();
            assert_eq!(received, size);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}
