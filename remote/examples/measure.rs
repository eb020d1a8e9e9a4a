//! Measures a server: `cargo run --release -p kiln-remote --example measure grpc://127.0.0.1:8980`. It writes some 110 MB of random
//! blobs there. With a number of bytes as the second argument it only sends and fetches content of that size that is never in memory,
//! as one blob and as blobs of 4 KiB, and tells its memory. With a static program in `PROGRAM` it executes that, with the further arguments.
#![allow(clippy::print_stdout)]

use bytes::Bytes;
use reapi::{
    Blob, Client, Content, Digest, Endpoint, Error, ExecuteOptions, Source, message_digest, proto,
};
use ring::rand::{SecureRandom, SystemRandom};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_default();
    let client = Client::new(Endpoint::parse(&address)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(measure(&client))
}

async fn measure(client: &Client) -> Result<(), Error> {
    println!("{:?}", client.capabilities().await?);
    if let Some(size) = std::env::args()
        .nth(2)
        .and_then(|size| size.parse().ok())
        .filter(|size| *size > 0)
    {
        return streamed(client, size).await;
    }
    cache(client).await?;
    small(client).await?;
    large(client).await?;
    if client.capabilities().await?.exec_enabled {
        execute(client).await?;
    }
    Ok(())
}

/// The median of some calls.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

async fn cache(client: &Client) -> Result<(), Error> {
    let content = random(100);
    client
        .upload(vec![Blob::of(content.clone())], &|_| {})
        .await?;
    let hit = Digest::of(&random(64));
    let result = proto::ActionResult {
        output_files: vec![proto::OutputFile {
            path: "out".to_owned(),
            digest: Some(Digest::of(&content).to_proto()),
            ..Default::default()
        }],
        ..Default::default()
    };
    println!(
        "recorded: {}",
        client.update_action_result(hit, result).await?
    );
    for (what, action) in [("hit", Some(hit)), ("miss", None)] {
        let mut times = Vec::new();
        for _ in 0..300 {
            let action = action.unwrap_or_else(|| Digest::of(&random(8)));
            let start = Instant::now();
            let found = client.action_result(action, &[]).await?;
            times.push(start.elapsed());
            assert_eq!(found.is_some(), what == "hit");
        }
        println!("action cache {what}: {:?}", median(times));
    }
    Ok(())
}

async fn small(client: &Client) -> Result<(), Error> {
    let digests: Vec<Digest> = (0..7000).map(|_| Digest::of(&random(16))).collect();
    let start = Instant::now();
    let missing = client.find_missing(&digests).await?;
    println!(
        "find_missing of 7000: {:?} ({} missing)",
        start.elapsed(),
        missing.len()
    );
    let blobs: Vec<Blob> = (0..2000).map(|_| Blob::of(random(4096))).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    let start = Instant::now();
    let uploaded = client.upload(blobs, &|_| {}).await?;
    println!("upload of 2000 x 4 KiB: {:?} {uploaded:?}", start.elapsed());
    let start = Instant::now();
    let read = client.read_many(&digests).await?;
    assert!(read.iter().all(|(_, result)| result.is_ok()));
    println!("read of 2000 x 4 KiB: {:?}", start.elapsed());
    Ok(())
}

async fn large(client: &Client) -> Result<(), Error> {
    let content = random(100 << 20);
    let blob = Blob::of(content);
    let digest = blob.digest;
    let start = Instant::now();
    let uploaded = client.upload(vec![blob], &|_| {}).await?;
    println!("put 100 MiB: {} {uploaded:?}", rate(start));
    let start = Instant::now();
    client.read_to(digest, &mut io::sink(), &|_| {}).await?;
    println!("get 100 MiB: {}", rate(start));
    Ok(())
}

/// Content that is never in memory: a number, again and again.
struct Repeated(u64, u64);

impl Source for Repeated {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let number = self.0.to_be_bytes();
        let pattern = io::Cursor::new(number.repeat(512));
        let rest = self.1.saturating_sub(4096);
        Ok(Box::new(
            pattern.take(self.1).chain(io::repeat(7).take(rest)),
        ))
    }
}

fn repeated(seed: u64, size: u64) -> Result<Blob, Error> {
    let source = Repeated(seed, size);
    let digest = digest_of(&source).expect("content that is made");
    Ok(Blob {
        digest,
        content: Content::Source(Arc::new(source)),
    })
}

fn digest_of(source: &dyn Source) -> io::Result<Digest> {
    let mut reader = source.open()?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        context.update(&buffer[..count]);
        size += count as u64;
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Ok(Digest::new(hash, size))
}

async fn streamed(client: &Client, size: u64) -> Result<(), Error> {
    let seed = u64::from(std::process::id());
    let blob = repeated(seed << 32, size)?;
    let digest = blob.digest;
    let start = Instant::now();
    client.upload(vec![blob], &|_| {}).await?;
    println!("put of {size} bytes: {:?}, {}", start.elapsed(), memory());
    let start = Instant::now();
    client.read_to(digest, &mut io::sink(), &|_| {}).await?;
    println!("get of {size} bytes: {:?}, {}", start.elapsed(), memory());
    let small = (0..size / 4096 / 8).map(|index| repeated(seed << 32 | (index + 1), 4096));
    let blobs = small.collect::<Result<Vec<Blob>, Error>>()?;
    let start = Instant::now();
    let uploaded = client.upload(blobs, &|_| {}).await?;
    println!(
        "put of small ones: {:?}, {uploaded:?}, {}",
        start.elapsed(),
        memory()
    );
    Ok(())
}

/// The most memory that this process has had.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.unwrap_or_default().replace('\t', " ")
}

fn rate(start: Instant) -> String {
    let took = start.elapsed();
    format!("{took:?}, {:.0} MiB/s", 100.0 / took.as_secs_f64())
}

/// `/kiln` is any static program that the second argument of the environment names; without one nothing is executed.
async fn execute(client: &Client) -> Result<(), Error> {
    let Some(program) = std::env::var_os("PROGRAM") else {
        return Ok(());
    };
    let program = Blob::of(Bytes::from(std::fs::read(program).expect("the program")));
    let root = proto::Directory {
        files: vec![proto::FileNode {
            name: "program".to_owned(),
            digest: Some(program.digest.to_proto()),
            is_executable: true,
            ..Default::default()
        }],
        ..Default::default()
    };
    let property = |name: &str| proto::platform::Property {
        name: name.to_owned(),
        value: "1000".to_owned(),
    };
    let platform = proto::Platform {
        properties: vec![property("unixGID"), property("unixUID")],
    };
    let arguments = std::env::args().skip(3).collect::<Vec<_>>();
    #[allow(deprecated)]
    let command = proto::Command {
        arguments: [vec!["./program".to_owned()], arguments].concat(),
        platform: Some(platform.clone()),
        ..Default::default()
    };
    let (root, root_bytes) = message_digest(&root);
    let (command, command_bytes) = message_digest(&command);
    let action = proto::Action {
        command_digest: Some(command.to_proto()),
        input_root_digest: Some(root.to_proto()),
        platform: Some(platform),
        timeout: Some(reapi::google::protobuf::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..Default::default()
    };
    let (action, action_bytes) = message_digest(&action);
    let blobs = [root_bytes, command_bytes, action_bytes].map(Blob::of);
    client
        .upload([vec![program], blobs.to_vec()].concat(), &|_| {})
        .await?;
    let options = ExecuteOptions {
        skip_cache_lookup: true,
        ..Default::default()
    };
    let mut times = Vec::new();
    for round in 0..10 {
        let start = Instant::now();
        let done = client
            .execute(
                action,
                &options,
                &|stage| {
                    if round == 0 {
                        println!("{:?} {stage:?}", start.elapsed());
                    }
                },
                std::future::pending(),
            )
            .await?;
        times.push(start.elapsed());
        if round == 0 {
            println!("{:?} {:?}", done.timing(), done.result);
        }
    }
    println!("execute: {:?}", median(times));
    Ok(())
}

fn random(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("random numbers");
    Bytes::from(bytes)
}
