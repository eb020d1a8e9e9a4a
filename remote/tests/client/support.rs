//! Clients, blobs and actions for tests.

use bytes::Bytes;
use reapi::{Blob, Client, Deadlines, Digest, Endpoint, Retry, message_digest, proto};
use std::future::Future;
use std::time::Duration;
use testkit::reapi::Server;

/// Long enough for a loaded machine; a test that hangs ends.
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("in time") })
}

/// Retries that do not take long, and a deadline that a loaded machine keeps.
pub(crate) fn endpoint(server: &Server) -> Endpoint {
    Endpoint::parse(&server.url()).unwrap().with_retry(Retry {
        tries: 4,
        budget: Duration::from_secs(5),
        first: Duration::from_millis(2),
    })
}

pub(crate) fn client(server: &Server) -> Client {
    Client::new(endpoint(server))
}

/// With deadlines of so many milliseconds.
pub(crate) fn hasty(server: &Server, millis: u64) -> Client {
    let time = Duration::from_millis(millis);
    Client::new(endpoint(server).with_deadlines(Deadlines {
        connect: Duration::from_secs(10),
        call: time,
        idle: time,
    }))
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    bytes.take(length).collect()
}

pub(crate) fn nothing(_: u64) {}

/// An action of a shell command, uploaded with all that it needs.
pub(crate) async fn shell(client: &Client, script: &str) -> Digest {
    let (action, blobs) = action(script, &[("OSFamily", "linux")]);
    client.upload(blobs, &nothing).await.unwrap();
    action
}

/// An action of a shell command, and its blobs.
pub(crate) fn action(script: &str, properties: &[(&str, &str)]) -> (Digest, Vec<Blob>) {
    let platform = proto::Platform {
        properties: properties
            .iter()
            .map(|(name, value)| proto::platform::Property {
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            })
            .collect(),
    };
    let input = Blob::of(Bytes::from_static(b"some input"));
    let root = proto::Directory {
        files: vec![proto::FileNode {
            name: "input".to_owned(),
            digest: Some(input.digest.to_proto()),
            ..Default::default()
        }],
        ..Default::default()
    };
    #[allow(deprecated)]
    let command = proto::Command {
        arguments: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        output_paths: vec!["out".to_owned()],
        platform: Some(platform.clone()),
        ..Default::default()
    };
    let (root, root_bytes) = message_digest(&root);
    let (command, command_bytes) = message_digest(&command);
    let (action, action_bytes) = message_digest(&proto::Action {
        command_digest: Some(command.to_proto()),
        input_root_digest: Some(root.to_proto()),
        platform: Some(platform),
        timeout: Some(reapi::google::protobuf::Duration {
            seconds: 100,
            nanos: 0,
        }),
        ..Default::default()
    });
    let messages = [root_bytes, command_bytes, action_bytes].map(Blob::of);
    (action, [vec![input], messages.into()].concat())
}
