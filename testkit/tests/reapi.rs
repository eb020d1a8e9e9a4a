//! The remote execution server of the tests does what such servers do, well-behaved or not.
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy's own exception does not reach helper functions"
)]

use prost::Message;
use testkit::reapi::apis::google::bytestream::byte_stream_client::ByteStreamClient;
use testkit::reapi::apis::google::bytestream::{ReadRequest, WriteRequest};
use testkit::reapi::apis::google::longrunning::{Operation, operation};
use testkit::reapi::proto::action_cache_client::ActionCacheClient;
use testkit::reapi::proto::capabilities_client::CapabilitiesClient;
use testkit::reapi::proto::content_addressable_storage_client::ContentAddressableStorageClient;
use testkit::reapi::proto::execution_client::ExecutionClient;
use testkit::reapi::proto::{
    Action, Command, Digest, Directory, ExecuteRequest, ExecuteResponse, FileNode,
    FindMissingBlobsRequest, GetActionResultRequest, GetCapabilitiesRequest,
};
use testkit::reapi::{Fault, Options, Server};
use tonic::transport::Channel;

fn digest(text: &str) -> Digest {
    let (hash, size) = text.split_once('/').unwrap();
    Digest {
        hash: hash.to_owned(),
        size_bytes: size.parse().unwrap(),
    }
}

async fn connect(server: &Server) -> Channel {
    let address = format!("http://{}", server.address());
    Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn put<M: Message>(server: &Server, message: &M) -> Digest {
    digest(&server.put(&message.encode_to_vec()))
}

/// An action of a shell script over an input root with one file `input`.
fn script(server: &Server, script: &str, change: impl FnOnce(&mut Action, &mut Command)) -> Digest {
    let input = Directory {
        files: vec![FileNode {
            name: "input".to_owned(),
            digest: Some(digest(&server.put(b"from the input root"))),
            ..FileNode::default()
        }],
        ..Directory::default()
    };
    let mut command = Command {
        arguments: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        output_paths: vec!["out/file".to_owned(), "out/tree".to_owned()],
        ..Command::default()
    };
    let mut action = Action {
        input_root_digest: Some(put(server, &input)),
        ..Action::default()
    };
    change(&mut action, &mut command);
    action.command_digest = Some(put(server, &command));
    put(server, &action)
}

async fn execute(server: &Server, action: &Digest) -> Vec<Operation> {
    let mut client = ExecutionClient::new(connect(server).await);
    let request = ExecuteRequest {
        action_digest: Some(action.clone()),
        ..ExecuteRequest::default()
    };
    let mut stream = client.execute(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(operation) = stream.message().await.unwrap() {
        seen.push(operation);
    }
    seen
}

fn response(operations: &[Operation]) -> ExecuteResponse {
    match &operations.last().unwrap().result {
        Some(operation::Result::Response(any)) => {
            ExecuteResponse::decode(any.value.as_slice()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn announces_what_it_was_set_up_for() {
    let server = Server::start(Options {
        instance: "main".to_owned(),
        max_batch: 1000,
        ..Options::default()
    });
    let mut client = CapabilitiesClient::new(connect(&server).await);
    let request = |instance: &str| GetCapabilitiesRequest {
        instance_name: instance.to_owned(),
    };
    let answer = client.get_capabilities(request("main")).await.unwrap();
    let cache = answer.into_inner().cache_capabilities.unwrap();
    assert_eq!(cache.max_batch_total_size_bytes, 1000);
    let error = client.get_capabilities(request("other")).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    assert_eq!(server.calls("GetCapabilities"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_breaks_is_resumed_and_the_blob_read_back() {
    let server = Server::start(Options::default());
    server.inject_times(Fault::BreakWrite { after: 7 }, 1);
    let content = b"some content to write".to_vec();
    let name = testkit::digest_of(&content).replace("sha256:", "");
    let resource = format!("blobs/{name}/{}", content.len());
    let mut client = ByteStreamClient::new(connect(&server).await);
    let message = |offset: usize| {
        tonic::Request::new(futures_util::stream::iter([WriteRequest {
            resource_name: format!("uploads/1-2-3/{resource}"),
            write_offset: i64::try_from(offset).unwrap(),
            finish_write: true,
            data: content[offset..].to_vec(),
        }]))
    };
    let error = client.write(message(0)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable);
    assert_eq!(server.blobs(), Vec::<String>::new());
    client.write(message(7)).await.unwrap();
    let request = ReadRequest {
        resource_name: resource,
        read_offset: 5,
        read_limit: 0,
    };
    let mut stream = client.read(request).await.unwrap().into_inner();
    let mut read = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        read.extend(message.data);
    }
    assert_eq!(read, content[5..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn says_which_blobs_are_missing_and_lies_when_told() {
    let server = Server::start(Options::default());
    let here = digest(&server.put(b"here"));
    let missing = digest(&format!("{}/9", "0".repeat(64)));
    let mut client = ContentAddressableStorageClient::new(connect(&server).await);
    let request = FindMissingBlobsRequest {
        blob_digests: vec![here, missing.clone()],
        ..FindMissingBlobsRequest::default()
    };
    let answer = client.find_missing_blobs(request.clone()).await.unwrap();
    assert_eq!(answer.into_inner().missing_blob_digests, [missing]);
    server.inject_times(Fault::MissingLies, 1);
    let answer = client.find_missing_blobs(request).await.unwrap();
    assert!(answer.into_inner().missing_blob_digests.is_empty());
    assert_eq!(server.applied(&Fault::MissingLies), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_a_command_and_keeps_its_result() {
    let server = Server::start(Options::default());
    let text = "cat input; echo error >&2; cp input out/file; mkdir out/tree; echo x > out/tree/y; \
                ln -s y out/tree/z; echo \"$VAR\" >> out/tree/y";
    let action = script(&server, text, |_, command| {
        command.environment_variables = vec![testkit::reapi::proto::command::EnvironmentVariable {
            name: "VAR".to_owned(),
            value: "value".to_owned(),
        }];
    });
    let seen = execute(&server, &action).await;
    let answer = response(&seen);
    assert_eq!(answer.status.unwrap().code, 0);
    let result = answer.result.unwrap();
    assert_eq!(result.exit_code, 0);
    assert_eq!(result.stdout_raw, b"from the input root");
    assert_eq!(result.stderr_raw, b"error\n");
    assert_eq!(result.output_files[0].path, "out/file");
    assert_eq!(result.output_directories[0].path, "out/tree");
    let metadata = result.execution_metadata.clone().unwrap();
    assert_eq!(metadata.worker, "worker-1");
    assert!(metadata.output_upload_completed_timestamp.is_some());

    let mut cache = ActionCacheClient::new(connect(&server).await);
    let request = GetActionResultRequest {
        action_digest: Some(action.clone()),
        inline_output_files: vec!["out/file".to_owned()],
        ..GetActionResultRequest::default()
    };
    let kept = cache.get_action_result(request).await.unwrap().into_inner();
    assert_eq!(kept.output_files[0].contents, b"from the input root");
    assert!(response(&execute(&server, &action).await).cached_result);
    let counters = server.counters();
    assert_eq!(counters.actions_run, 1);
    assert_eq!(counters.live_children, 0);
}
