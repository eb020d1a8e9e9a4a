//! A small client, without any care for what can go wrong.

use prost::Message;
use std::collections::BTreeMap;
use testkit::reapi::apis::google::longrunning::operations_client::OperationsClient;
use testkit::reapi::apis::google::longrunning::{CancelOperationRequest, Operation, operation};
use testkit::reapi::apis::google::protobuf::{Duration, Timestamp, UInt32Value};
use testkit::reapi::proto::content_addressable_storage_client::ContentAddressableStorageClient;
use testkit::reapi::proto::execution_client::ExecutionClient;
use testkit::reapi::proto::{
    Action, ActionResult, BatchReadBlobsRequest, BatchUpdateBlobsRequest, Command, Digest,
    Directory, DirectoryNode, ExecuteRequest, ExecuteResponse, FileNode, NodeProperties, Platform,
    SymlinkNode, batch_update_blobs_request, platform,
};
use tonic::transport::Channel;

/// A digest from `HEX/SIZE`.
pub(crate) fn digest(text: &str) -> Digest {
    let (hash, size) = text.split_once('/').unwrap();
    Digest {
        hash: hash.to_owned(),
        size_bytes: size.parse().unwrap(),
    }
}

pub(crate) fn text(digest: &Digest) -> String {
    format!("{}/{}", digest.hash, digest.size_bytes)
}

pub(crate) async fn connect(url: &str) -> Channel {
    let address = url.replace("grpc://", "http://");
    let endpoint = Channel::from_shared(address).unwrap();
    endpoint.connect().await.unwrap()
}

/// Blobs that are to be sent.
#[derive(Default)]
pub(crate) struct Blobs(BTreeMap<String, (Digest, Vec<u8>)>);

impl Blobs {
    pub(crate) fn add(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest {
            hash: testkit::digest_of(&bytes).replace("sha256:", ""),
            size_bytes: i64::try_from(bytes.len()).unwrap(),
        };
        self.0.insert(digest.hash.clone(), (digest.clone(), bytes));
        digest
    }

    pub(crate) fn message<M: Message>(&mut self, message: &M) -> Digest {
        self.add(message.encode_to_vec())
    }

    pub(crate) async fn send(&self, channel: &Channel) {
        let mut client = ContentAddressableStorageClient::new(channel.clone());
        for (digest, data) in self.0.values() {
            let request = batch_update_blobs_request::Request {
                digest: Some(digest.clone()),
                data: data.clone(),
                compressor: 0,
            };
            let request = BatchUpdateBlobsRequest {
                requests: vec![request],
                ..BatchUpdateBlobsRequest::default()
            };
            let answer = client.batch_update_blobs(request).await.unwrap();
            let status = answer.into_inner().responses[0].status.clone();
            assert_eq!(status.unwrap_or_default().code, 0);
        }
    }
}

/// An entry of an input root, with its mode and seconds of its time if they are to be told.
pub(crate) enum Node {
    File(&'static str, Vec<u8>, bool, Option<(u32, i64)>),
    Link(&'static str, &'static str, Option<(u32, i64)>),
    Folder(&'static str, Vec<Node>, Option<(u32, i64)>),
}

fn properties(told: Option<(u32, i64)>) -> Option<NodeProperties> {
    told.map(|(mode, seconds)| NodeProperties {
        properties: Vec::new(),
        mtime: Some(Timestamp { seconds, nanos: 0 }),
        unix_mode: Some(UInt32Value { value: mode }),
    })
}

pub(crate) fn tree(blobs: &mut Blobs, nodes: Vec<Node>, told: Option<(u32, i64)>) -> Digest {
    let mut directory = Directory {
        node_properties: properties(told),
        ..Directory::default()
    };
    for node in nodes {
        match node {
            Node::File(name, bytes, is_executable, told) => directory.files.push(FileNode {
                name: name.to_owned(),
                digest: Some(blobs.add(bytes)),
                is_executable,
                node_properties: properties(told),
            }),
            Node::Link(name, target, told) => directory.symlinks.push(SymlinkNode {
                name: name.to_owned(),
                target: target.to_owned(),
                node_properties: properties(told),
            }),
            Node::Folder(name, nodes, told) => {
                let digest = tree(blobs, nodes, told);
                directory.directories.push(DirectoryNode {
                    name: name.to_owned(),
                    digest: Some(digest),
                });
            }
        }
    }
    directory.files.sort_by(|a, b| a.name.cmp(&b.name));
    directory.symlinks.sort_by(|a, b| a.name.cmp(&b.name));
    directory.directories.sort_by(|a, b| a.name.cmp(&b.name));
    blobs.message(&directory)
}

/// An action of a shell script.
pub(crate) struct Script {
    pub(crate) root: Vec<Node>,
    pub(crate) arguments: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) platform: Vec<(String, String)>,
    /// Seconds.
    pub(crate) timeout: i64,
    pub(crate) do_not_cache: bool,
}

impl Script {
    /// `/bin/sh -c` over an input root with one file, `input`.
    pub(crate) fn new(script: &str) -> Self {
        let input = b"from the input root".to_vec();
        Self {
            root: vec![Node::File("input", input, false, None)],
            arguments: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            outputs: vec!["out/file".to_owned(), "out/tree".to_owned()],
            platform: Vec::new(),
            timeout: 60,
            do_not_cache: false,
        }
    }

    pub(crate) fn platform(mut self, properties: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.platform = properties.iter().map(owned).collect();
        self
    }

    /// Sends what belongs to it; gives the action's digest.
    pub(crate) async fn send(self, channel: &Channel) -> Digest {
        let mut blobs = Blobs::default();
        let root = tree(&mut blobs, self.root, None);
        let properties = self.platform.into_iter();
        let command = Command {
            arguments: self.arguments,
            output_paths: self.outputs,
            environment_variables: vec![testkit::reapi::proto::command::EnvironmentVariable {
                name: "PATH".to_owned(),
                value: "/bin:/usr/bin".to_owned(),
            }],
            ..Command::default()
        };
        let action = Action {
            command_digest: Some(blobs.message(&command)),
            input_root_digest: Some(root),
            timeout: Some(Duration {
                seconds: self.timeout,
                nanos: 0,
            }),
            do_not_cache: self.do_not_cache,
            platform: Some(Platform {
                properties: properties
                    .map(|(name, value)| platform::Property { name, value })
                    .collect(),
            }),
            ..Action::default()
        };
        let digest = blobs.message(&action);
        blobs.send(channel).await;
        digest
    }

    /// Runs it to its end.
    pub(crate) async fn run(self, channel: &Channel) -> ExecuteResponse {
        let action = self.send(channel).await;
        response(&execute(channel, &action).await)
    }
}

pub(crate) async fn start(channel: &Channel, action: &Digest) -> tonic::Streaming<Operation> {
    let mut client = ExecutionClient::new(channel.clone());
    let request = ExecuteRequest {
        action_digest: Some(action.clone()),
        ..ExecuteRequest::default()
    };
    client.execute(request).await.unwrap().into_inner()
}

pub(crate) async fn execute(channel: &Channel, action: &Digest) -> Vec<Operation> {
    let mut stream = start(channel, action).await;
    let mut seen = Vec::new();
    while let Some(operation) = stream.message().await.unwrap() {
        seen.push(operation);
    }
    seen
}

/// The standard output of a result, wherever it is.
pub(crate) async fn output(channel: &Channel, result: &ActionResult) -> String {
    let mut bytes = result.stdout_raw.clone();
    if bytes.is_empty() {
        let mut client = ContentAddressableStorageClient::new(channel.clone());
        let request = BatchReadBlobsRequest {
            digests: result.stdout_digest.clone().into_iter().collect(),
            ..BatchReadBlobsRequest::default()
        };
        let answer = client.batch_read_blobs(request).await.unwrap();
        bytes.clone_from(&answer.into_inner().responses[0].data);
    }
    String::from_utf8(bytes).unwrap()
}

pub(crate) async fn cancel(channel: &Channel, name: &str) -> Result<(), tonic::Status> {
    let mut client = OperationsClient::new(channel.clone());
    let request = CancelOperationRequest {
        name: name.to_owned(),
    };
    client.cancel_operation(request).await.map(|_| ())
}

pub(crate) fn response(operations: &[Operation]) -> ExecuteResponse {
    match &operations.last().unwrap().result {
        Some(operation::Result::Response(any)) => {
            ExecuteResponse::decode(any.value.as_slice()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}
