//! What a server does that was told to fail.

use crate::client::{self, Script, connect, digest, execute, response, text};
use prost::Message;
use testkit::Scratch;
use testkit::reapi::apis::google::bytestream::byte_stream_client::ByteStreamClient;
use testkit::reapi::apis::google::bytestream::{
    QueryWriteStatusRequest, ReadRequest, WriteRequest,
};
use testkit::reapi::proto::action_cache_client::ActionCacheClient;
use testkit::reapi::proto::content_addressable_storage_client::ContentAddressableStorageClient;
use testkit::reapi::proto::execution_client::ExecutionClient;
use testkit::reapi::proto::{
    ActionResult, BatchReadBlobsRequest, FindMissingBlobsRequest, GetActionResultRequest,
    UpdateActionResultRequest, WaitExecutionRequest,
};
use testkit::reapi::{Fault, Lie, LostWorker, Options, Server};
use tonic::Code;
use tonic::transport::Channel;

async fn read(channel: &Channel, digest: &str) -> (Vec<u8>, Option<Code>) {
    let mut client = ByteStreamClient::new(channel.clone());
    let request = ReadRequest {
        resource_name: format!("blobs/{digest}"),
        ..ReadRequest::default()
    };
    let mut bytes = Vec::new();
    let mut stream = match client.read(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return (bytes, Some(status.code())),
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => bytes.extend(message.data),
            Ok(None) => return (bytes, None),
            Err(status) => return (bytes, Some(status.code())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_breaks_is_resumed() {
    let server = Server::start(Options::default());
    let broken = Fault::BreakWrite { after: 7 };
    server.inject_times(broken.clone(), 1);
    let content = b"some content to write".to_vec();
    let hash = testkit::digest_of(&content).replace("sha256:", "");
    let digest = format!("{hash}/{}", content.len());
    let name = format!("uploads/1-2-3/blobs/{digest}");
    let channel = connect(&server.url()).await;
    let mut client = ByteStreamClient::new(channel.clone());
    let message = |offset: usize| {
        futures_util::stream::iter([WriteRequest {
            resource_name: name.clone(),
            write_offset: i64::try_from(offset).unwrap(),
            finish_write: true,
            data: content[offset..].to_vec(),
        }])
    };
    let error = client.write(message(0)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(server.applied(&broken), 1);
    let request = QueryWriteStatusRequest {
        resource_name: name.clone(),
    };
    let status = client.query_write_status(request).await.unwrap();
    assert_eq!(status.into_inner().committed_size, 7);
    client.write(message(7)).await.unwrap();
    assert_eq!(read(&channel, &digest).await, (content, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_wrong_in_every_way() {
    let server = Server::start(Options::default());
    let blob = server.put(b"0123456789");
    let other = server.put(b"other");
    let channel = connect(&server.url()).await;
    let mut reads = Vec::new();
    for fault in [
        Fault::BreakRead { after: 4 },
        Fault::WrongContent(Some(blob.clone())),
        Fault::ShortContent(None),
        Fault::LongContent(None),
        Fault::status("Read", 14),
        Fault::EvictOnRead(Some(blob.clone())),
    ] {
        server.inject_times(fault, 1);
        reads.push(read(&channel, &blob).await);
    }
    assert_eq!(reads[0], (b"0123".to_vec(), Some(Code::Unavailable)));
    assert_eq!((reads[1].0.len(), reads[1].1), (10, None));
    assert_ne!(reads[1].0, b"0123456789");
    assert_eq!(reads[2], (b"012345678".to_vec(), None));
    assert_eq!(reads[3].0.len(), 11);
    assert_eq!(reads[4].1, Some(Code::Unavailable));
    assert_eq!(reads[5].1, Some(Code::NotFound));
    assert_eq!(read(&channel, &other).await, (b"other".to_vec(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_have_a_limit_and_refuse_single_blobs() {
    let server = Server::start(Options {
        max_batch: 20,
        ..Options::default()
    });
    let channel = connect(&server.url()).await;
    let blobs = [server.put(&[b'a'; 15]), server.put(&[b'b'; 15])];
    let mut cas = ContentAddressableStorageClient::new(channel);
    let request = |blobs: &[String]| BatchReadBlobsRequest {
        digests: blobs.iter().map(|blob| digest(blob)).collect(),
        ..BatchReadBlobsRequest::default()
    };
    let error = cas.batch_read_blobs(request(&blobs)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    server.evict(&blobs[0]);
    let answer = cas.batch_read_blobs(request(&blobs[..1])).await.unwrap();
    let status = answer.into_inner().responses[0].status.clone().unwrap();
    assert_eq!(status.code, Code::NotFound as i32);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_blobs_are_lied_about_and_named_when_an_action_needs_them() {
    let server = Server::start(Options::default());
    let channel = connect(&server.url()).await;
    let script = Script::new("cat input");
    let action = script.send(&channel).await;
    let input = testkit::digest_of(b"from the input root").replace("sha256:", "");
    let input = format!("{input}/19");
    assert!(server.evict(&input));
    let mut cas = ContentAddressableStorageClient::new(channel.clone());
    let request = FindMissingBlobsRequest {
        blob_digests: vec![digest(&input)],
        ..FindMissingBlobsRequest::default()
    };
    server.inject_times(Fault::MissingLies, 1);
    for missing in [0, 1] {
        let answer = cas.find_missing_blobs(request.clone()).await.unwrap();
        assert_eq!(answer.into_inner().missing_blob_digests.len(), missing);
    }
    let answer = response(&execute(&channel, &action).await);
    let status = answer.status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32);
    let details = String::from_utf8_lossy(&status.details[0].value).into_owned();
    assert!(details.contains("MISSING") && details.contains(&format!("blobs/{input}")));
    // Without the action itself, the call fails.
    server.evict(&text(&action));
    let mut client = ExecutionClient::new(channel);
    let request = testkit::reapi::proto::ExecuteRequest {
        action_digest: Some(action),
        ..Default::default()
    };
    let error = client.execute(request).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let status = testkit::reapi::apis::google::rpc::Status::decode(error.details()).unwrap();
    assert_eq!(status.details.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_untrue_in_every_way() {
    let server = Server::start(Options::default());
    let channel = connect(&server.url()).await;
    let action = Script::new("cp input out/file").send(&channel).await;
    execute(&channel, &action).await;
    let get = async |lie| {
        server.inject_times(Fault::Result(lie), 1);
        let mut cache = ActionCacheClient::new(channel.clone());
        let request = GetActionResultRequest {
            action_digest: Some(action.clone()),
            ..GetActionResultRequest::default()
        };
        cache.get_action_result(request).await.unwrap().into_inner()
    };
    let output = |result: &ActionResult| result.output_files[0].digest.clone().unwrap();
    let absent = output(&get(Lie::AbsentBlobs).await);
    assert_eq!(server.blob(&text(&absent)), None);
    let wrong = output(&get(Lie::WrongDigests).await);
    assert_eq!(server.blob(&text(&wrong)).unwrap(), b"another blob");
    assert!(output(&get(Lie::AbsurdSizes).await).size_bytes > 1 << 60);
    assert!(output(&get(Lie::NegativeSizes).await).size_bytes < 0);
    assert!(get(Lie::NoOutputs).await.output_files.is_empty());
    assert_eq!(get(Lie::ExitOne).await.exit_code, 1);
    let true_again = get(Lie::ExitZero).await;
    server.inject_times(Fault::EvictAfterHit, 1);
    let gone = output(&get(Lie::ExitZero).await);
    assert_eq!(gone, output(&true_again));
    assert_eq!(server.blob(&text(&gone)), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_beside_exit_code_zero_runs_nothing() {
    let server = Server::start(Options::default());
    let channel = connect(&server.url()).await;
    server.inject_times(Fault::StatusInResponse { code: 13 }, 1);
    let answer = Script::new("true").run(&channel).await;
    assert_eq!(answer.status.unwrap().code, 13);
    assert_eq!(answer.result.unwrap().exit_code, 0);
    assert_eq!(server.counters().actions_run, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_die_in_the_middle_of_a_command() {
    let dies = Fault::kill_worker("half");
    let cases = [
        (LostWorker::Unavailable, 1, Code::Unavailable),
        (LostWorker::Aborted, 1, Code::Aborted),
        (LostWorker::Retried, 2, Code::Ok),
    ];
    for (lost_worker, runs, code) in cases {
        let server = Server::start(Options {
            lost_worker,
            ..Options::default()
        });
        server.inject_times(dies.clone(), 1);
        let channel = connect(&server.url()).await;
        let marks = Scratch::new();
        let mark = marks.join("second");
        let mark = mark.display();
        // The first time it would go on for ever.
        let text = format!("[ -e {mark} ] || {{ touch {mark}; echo half; sleep 1000; }}");
        let answer = Script::new(&text).run(&channel).await;
        assert_eq!(answer.status.unwrap().code, code as i32);
        let counters = server.counters();
        assert_eq!((counters.actions_run, counters.live_children), (runs, 0));
        assert_eq!(server.applied(&dies), 1);
    }
    let server = Server::start(Options {
        lost_worker: LostWorker::Stream,
        ..Options::default()
    });
    server.inject(Fault::kill_worker(""));
    let channel = connect(&server.url()).await;
    let action = Script::new("sleep 1000").send(&channel).await;
    let mut stream = client::start(&channel, &action).await;
    let error = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some_and(|operation| !operation.done)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_streams_of_operations_can_be_waited_for_again() {
    let server = Server::start(Options::default());
    let channel = connect(&server.url()).await;
    server.inject_times(Fault::BreakOperations, 1);
    let marks = Scratch::new();
    let mark = marks.join("go");
    let text = format!(
        "while [ ! -e {} ]; do sleep 0.01; done; cat input",
        mark.display()
    );
    let action = Script::new(&text).send(&channel).await;
    let mut stream = client::start(&channel, &action).await;
    let name = stream.message().await.unwrap().unwrap().name;
    let error = stream.message().await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    std::fs::write(&mark, "").unwrap();
    let mut client = ExecutionClient::new(channel.clone());
    let request = WaitExecutionRequest { name };
    let stream = client.wait_execution(request.clone()).await.unwrap();
    let mut stream = stream.into_inner();
    let mut last = None;
    while let Some(operation) = stream.message().await.unwrap() {
        last = Some(operation);
    }
    let result = response(&[last.unwrap()]).result.unwrap();
    assert_eq!(result.stdout_raw, b"from the input root");
    server.inject(Fault::NoWait);
    let error = client.wait_execution(request).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_stalls_until_told_otherwise() {
    let server = Server::start(Options::default());
    server.inject(Fault::StallQueue);
    let channel = connect(&server.url()).await;
    let action = Script::new("true").send(&channel).await;
    let mut stream = client::start(&channel, &action).await;
    assert!(!stream.message().await.unwrap().unwrap().done);
    assert_eq!(server.counters().open_operations, 1);
    server.clear();
    let mut last = None;
    while let Some(operation) = stream.message().await.unwrap() {
        last = Some(operation);
    }
    assert!(last.unwrap().done);
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_and_cancelling_are_refused_when_told() {
    let server = Server::start(Options::default());
    let channel = connect(&server.url()).await;
    server.inject(Fault::RefuseUpdate { code: 7 });
    server.inject(Fault::NoCancel);
    let mut cache = ActionCacheClient::new(channel.clone());
    let request = UpdateActionResultRequest {
        action_digest: Some(digest(&server.put(b"an action"))),
        action_result: Some(ActionResult::default()),
        ..UpdateActionResultRequest::default()
    };
    let error = cache
        .update_action_result(request.clone())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    let error = client::cancel(&channel, "operations/1").await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    server.clear();
    cache.update_action_result(request).await.unwrap();
    assert_eq!(server.actions().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_cuts_connections_and_ends_commands() {
    let mut server = Server::start(Options::default());
    let kept = server.put(b"kept");
    let channel = connect(&server.url()).await;
    let action = Script::new("sleep 1000").send(&channel).await;
    let mut stream = client::start(&channel, &action).await;
    let name = stream.message().await.unwrap().unwrap().name;
    server.down();
    while let Ok(Some(_)) = stream.message().await {}
    assert_eq!(server.counters().live_children, 0);
    assert!(std::net::TcpStream::connect(server.address()).is_err());
    server.up();
    let channel = connect(&server.url()).await;
    assert_eq!(read(&channel, &kept).await, (b"kept".to_vec(), None));
    let mut client = ExecutionClient::new(channel.clone());
    let request = WaitExecutionRequest { name };
    let stream = client.wait_execution(request).await;
    assert_eq!(stream.unwrap_err().code(), Code::NotFound);
    server.forget();
    assert_eq!(read(&channel, &kept).await.1, Some(Code::NotFound));
}
