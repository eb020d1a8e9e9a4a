//! What a well-behaved server does.

use crate::client::{self, Node, Script, connect, digest, execute, response};
use prost::Message;
use std::time::{Duration, SystemTime};
use testkit::reapi::apis::google::bytestream::byte_stream_client::ByteStreamClient;
use testkit::reapi::apis::google::bytestream::{ReadRequest, WriteRequest};
use testkit::reapi::proto::action_cache_client::ActionCacheClient;
use testkit::reapi::proto::capabilities_client::CapabilitiesClient;
use testkit::reapi::proto::content_addressable_storage_client::ContentAddressableStorageClient;
use testkit::reapi::proto::{
    ExecuteOperationMetadata, GetActionResultRequest, GetCapabilitiesRequest, GetTreeRequest, Tree,
    execution_stage,
};
use testkit::reapi::{NoMatch, Options, Server, Staging, Tls, Worker};
use testkit::{Authority, Scratch};

#[tokio::test(flavor = "multi_thread")]
async fn announces_what_it_was_set_up_for() {
    let server = Server::start(Options {
        instance: "main".to_owned(),
        max_batch: 1000,
        execution: false,
        ..Options::default()
    });
    assert!(server.url().ends_with("/main"));
    let address = format!("grpc://{}", server.address());
    let mut client = CapabilitiesClient::new(connect(&address).await);
    let request = |instance: &str| GetCapabilitiesRequest {
        instance_name: instance.to_owned(),
    };
    let answer = client.get_capabilities(request("main")).await.unwrap();
    let answer = answer.into_inner();
    assert!(answer.execution_capabilities.is_none());
    let cache = answer.cache_capabilities.unwrap();
    assert_eq!(cache.max_batch_total_size_bytes, 1000);
    let error = client.get_capabilities(request("other")).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    assert_eq!(server.calls("GetCapabilities"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_blobs_go_in_and_out() {
    let server = Server::start(Options::default());
    let content = vec![b'x'; 3_000_000];
    let hash = testkit::digest_of(&content).replace("sha256:", "");
    let resource = format!("compressed-blobs/zstd/{hash}/{}", content.len());
    let mut client = ByteStreamClient::new(connect(&server.url()).await);
    let message = WriteRequest {
        resource_name: format!("uploads/1-2-3/{resource}"),
        write_offset: 0,
        finish_write: true,
        data: zstd::encode_all(content.as_slice(), 1).unwrap(),
    };
    let once = || futures_util::stream::iter([message.clone()]);
    let packed = client.write(once()).await.unwrap().into_inner();
    assert_eq!(packed.committed_size as usize, message.data.len());
    let again = client.write(once()).await.unwrap().into_inner();
    assert_eq!(again.committed_size, -1);
    let request = ReadRequest {
        resource_name: resource,
        read_offset: 1_000_000,
        read_limit: 0,
    };
    let mut stream = client.read(request).await.unwrap().into_inner();
    let mut read = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        read.extend(message.data);
    }
    let read = zstd::decode_all(read.as_slice()).unwrap();
    assert_eq!(read, content[1_000_000..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_with_another_digest_is_refused() {
    let server = Server::start(Options::default());
    let mut client = ByteStreamClient::new(connect(&server.url()).await);
    let message = WriteRequest {
        resource_name: format!("uploads/1-2-3/blobs/{}/4", "0".repeat(64)),
        write_offset: 0,
        finish_write: true,
        data: b"four".to_vec(),
    };
    let stream = futures_util::stream::iter([message]);
    let error = client.write(stream).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(server.blobs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_a_command_and_keeps_its_result() {
    let server = Server::start(Options::default());
    let channel = connect(&server.url()).await;
    let text = "cat input; echo error >&2; cp input out/file; mkdir out/tree; echo x > out/tree/y; \
                ln -s y out/tree/z";
    let action = Script::new(text).send(&channel).await;
    let answer = response(&execute(&channel, &action).await);
    assert_eq!(answer.status.unwrap().code, 0);
    let result = answer.result.unwrap();
    assert_eq!(result.exit_code, 0);
    assert_eq!(result.stdout_raw, b"from the input root");
    assert_eq!(result.stderr_raw, b"error\n");
    assert_eq!(result.output_files[0].path, "out/file");
    let tree = result.output_directories[0].tree_digest.clone().unwrap();
    let tree = server.blob(&client::text(&tree)).unwrap();
    let tree = Tree::decode(tree.as_slice()).unwrap().root.unwrap();
    assert_eq!(tree.files[0].name, "y");
    assert_eq!(tree.symlinks[0].target, "y");
    let metadata = result.execution_metadata.clone().unwrap();
    assert_eq!(metadata.worker, "worker-1");
    assert!(metadata.output_upload_completed_timestamp.is_some());

    let mut cache = ActionCacheClient::new(channel.clone());
    let request = GetActionResultRequest {
        action_digest: Some(action.clone()),
        inline_output_files: vec!["out/file".to_owned()],
        ..GetActionResultRequest::default()
    };
    let kept = cache.get_action_result(request).await.unwrap().into_inner();
    assert_eq!(kept.output_files[0].contents, b"from the input root");
    assert!(response(&execute(&channel, &action).await).cached_result);
    let counters = server.counters();
    assert_eq!((counters.actions_run, counters.live_children), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_kept_only_where_set_up_so() {
    for kept in [false, true] {
        let server = Server::start(Options {
            cache_failed: kept,
            ..Options::default()
        });
        let channel = connect(&server.url()).await;
        let action = Script::new("exit 7").send(&channel).await;
        let first = response(&execute(&channel, &action).await);
        assert_eq!(first.result.unwrap().exit_code, 7);
        let second = response(&execute(&channel, &action).await);
        assert_eq!(second.cached_result, kept);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_carries_modes_and_times_only_where_announced() {
    let script = "stat -c '%n %a %Y' file folder; ls -l link | wc -l";
    let cases = [
        (
            true,
            Staging::Copy,
            "file 4750 1000000000\nfolder 1777 1000000000\n1\n",
        ),
        (
            true,
            Staging::CopyOnce,
            "file 4750 1000000000\nfolder 1777 1000000000\n1\n",
        ),
        (
            true,
            Staging::HardLink,
            "file 4750 1000000000\nfolder 1777 1000000000\n1\n",
        ),
    ];
    let root = || {
        vec![
            Node::File(
                "file",
                b"content".to_vec(),
                true,
                Some((0o4750, 1_000_000_000)),
            ),
            Node::Folder("folder", Vec::new(), Some((0o1777, 1_000_000_000))),
            Node::Link("link", "/nowhere", Some((0o777, 1_000_000_000))),
        ]
    };
    for (node_properties, staging, expected) in cases {
        let server = Server::start(Options {
            node_properties,
            staging,
            ..Options::default()
        });
        let script = Script {
            root: root(),
            ..Script::new(script)
        };
        let answer = script.run(&connect(&server.url()).await).await;
        let said = String::from_utf8(answer.result.unwrap().stdout_raw).unwrap();
        assert_eq!(said, expected);
    }
    for staging in [Staging::Copy, Staging::CopyOnce, Staging::HardLink] {
        let server = Server::start(Options {
            node_properties: false,
            staging,
            ..Options::default()
        });
        let before = SystemTime::now() - Duration::from_secs(5);
        let since = before.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let text = format!(
            "test $(stat -c %Y file) -gt {} && stat -c '%n %a' file folder",
            since.as_secs()
        );
        let script = Script {
            root: root(),
            ..Script::new(&text)
        };
        let answer = script.run(&connect(&server.url()).await).await;
        let said = String::from_utf8(answer.result.unwrap().stdout_raw).unwrap();
        assert_eq!(said, "file 555\nfolder 755\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_equal_content_are_one_file_where_that_is_asked_for() {
    let file = |name, mode, time| {
        let properties = Some((mode, time));
        Node::File(name, b"content".to_vec(), false, properties)
    };
    for (staging, expected) in [
        (Staging::Copy, "1 1 1 1\n"),
        (Staging::CopyOnce, "2 2 1 1\n"),
    ] {
        let server = Server::start(Options {
            staging,
            ..Options::default()
        });
        let channel = connect(&server.url()).await;
        // What one action writes into its files is not in those of the next.
        for text in ["a", "b"] {
            let script = Script {
                root: vec![
                    file("one", 0o644, 1_000_000_000),
                    file("same", 0o644, 1_000_000_000),
                    file("other-mode", 0o600, 1_000_000_000),
                    file("other-time", 0o644, 1_000_000_001),
                ],
                ..Script::new(&format!(
                    "echo $(stat -c %h one same other-mode other-time); cat one | grep -qx content && echo {text} > one"
                ))
            };
            let result = script.run(&channel).await.result.unwrap();
            assert_eq!(String::from_utf8(result.stdout_raw).unwrap(), expected);
            assert_eq!(result.exit_code, 0, "{staging:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_go_to_workers_of_their_platform() {
    let server = Server::start(Options {
        workers: vec![
            Worker::new("intel", 1),
            Worker::new("arm", 1).isa("arm-a64").with("Pool", "big"),
        ],
        no_match: NoMatch::Error,
        ..Options::default()
    });
    let channel = connect(&server.url()).await;
    let worker = async |properties: &[(&str, &str)]| {
        let script = Script::new("true").platform(properties);
        let answer = script.run(&channel).await;
        let code = answer.status.unwrap().code;
        let metadata = answer.result.unwrap().execution_metadata;
        (code, metadata.unwrap_or_default().worker)
    };
    assert_eq!(worker(&[("ISA", "arm-a64")]).await, (0, "arm".to_owned()));
    assert_eq!(worker(&[("Pool", "big")]).await, (0, "arm".to_owned()));
    assert_eq!(worker(&[("ISA", "x86-64")]).await, (0, "intel".to_owned()));
    assert_eq!(worker(&[("ISA", "rv64g")]).await, (9, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_commands_run_at_once_as_there_are_slots() {
    // Each waits for the other's mark: in two slots until it comes, in one the first of them in vain.
    for (workers, patience, together) in [(1, 20, false), (2, 5_000, true)] {
        let server = Server::start(Options {
            workers: vec![Worker::new("one", 1); workers],
            ..Options::default()
        });
        let folder = Scratch::new();
        let channel = connect(&server.url()).await;
        let text = |mine: &str, other: &str| {
            let folder = folder.path().display();
            format!(
                "touch {folder}/{mine}; i=0; while [ ! -e {folder}/{other} ]; do sleep 0.01; \
                 i=$((i+1)); [ $i -lt {patience} ] || exit 5; done"
            )
        };
        let (first, second) = tokio::join!(
            Script::new(&text("a", "b")).run(&channel),
            Script::new(&text("b", "a")).run(&channel)
        );
        let codes = [first, second].map(|answer| answer.result.unwrap().exit_code);
        assert_eq!(codes == [0, 0], together, "{codes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_end_all_that_a_command_started() {
    let server = Server::start(Options::default());
    let script = Script {
        timeout: 1,
        ..Script::new("setsid sleep 1000 & (cd /; sleep 1000) & sleep 1000")
    };
    let answer = script.run(&connect(&server.url()).await).await;
    assert_eq!(
        answer.status.unwrap().code,
        tonic::Code::DeadlineExceeded as i32
    );
    assert_eq!(server.counters().live_children, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_operations_end_with_their_processes() {
    let server = Server::start(Options {
        log_streams: true,
        ..Options::default()
    });
    let channel = connect(&server.url()).await;
    let action = Script::new("echo it runs; sleep 1000").send(&channel).await;
    let mut stream = client::start(&channel, &action).await;
    let mut name = String::new();
    let log = loop {
        let operation = stream.message().await.unwrap().unwrap();
        name.clone_from(&operation.name);
        let metadata = operation.metadata.unwrap();
        let metadata = ExecuteOperationMetadata::decode(metadata.value.as_slice()).unwrap();
        if metadata.stage == execution_stage::Value::Executing as i32 {
            break metadata.stdout_stream_name;
        }
    };
    let request = ReadRequest {
        resource_name: log,
        ..ReadRequest::default()
    };
    let mut bytes = ByteStreamClient::new(channel.clone());
    let mut output = bytes.read(request).await.unwrap().into_inner();
    let said = output.message().await.unwrap().unwrap().data;
    assert_eq!(said, b"it runs\n");
    client::cancel(&channel, &name).await.unwrap();
    let last = stream.message().await.unwrap().unwrap();
    assert!(last.done, "{last:?}");
    assert_eq!(output.message().await.unwrap(), None);
    let counters = server.counters();
    assert_eq!((counters.cancellations, counters.live_children), (1, 0));
    assert_eq!(counters.open_operations, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_given_whole() {
    let server = Server::start(Options::default());
    let mut blobs = client::Blobs::default();
    let below = vec![Node::File("file", b"x".to_vec(), false, None)];
    let nodes = vec![
        Node::Folder("a", below, None),
        Node::Folder("b", Vec::new(), None),
    ];
    let root = client::tree(&mut blobs, nodes, None);
    let channel = connect(&server.url()).await;
    blobs.send(&channel).await;
    let mut cas = ContentAddressableStorageClient::new(channel);
    let request = GetTreeRequest {
        root_digest: Some(root),
        page_size: 2,
        ..GetTreeRequest::default()
    };
    let mut stream = cas.get_tree(request).await.unwrap().into_inner();
    let mut sizes = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        sizes.push(page.directories.len());
    }
    assert_eq!(sizes, [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_headers_are_demanded() {
    let Some(authority) = Authority::new() else {
        return;
    };
    let server = Server::start(Options {
        tls: Some(Tls {
            pair: authority.server(),
            client_ca: Some(authority.certificate()),
        }),
        headers: vec![("authorization".to_owned(), "Bearer secret".to_owned())],
        ..Options::default()
    });
    assert!(server.url().starts_with("grpcs://"));
    let pem = |path| std::fs::read(path).unwrap();
    let connect = async |identity: bool| {
        use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(pem(authority.certificate())));
        if identity {
            let pair = authority.client();
            tls = tls.identity(Identity::from_pem(pem(pair.certificate), pem(pair.key)));
        }
        let address = format!("https://{}", server.address());
        let endpoint = Channel::from_shared(address)
            .unwrap()
            .tls_config(tls)
            .unwrap();
        let mut client = CapabilitiesClient::new(endpoint.connect_lazy());
        let mut request = tonic::Request::new(GetCapabilitiesRequest::default());
        let first = client
            .get_capabilities(GetCapabilitiesRequest::default())
            .await;
        let value = "Bearer secret".parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let second = client.get_capabilities(request).await;
        (first.map_err(|e| e.code()).err(), second.is_ok())
    };
    assert_eq!(
        connect(true).await,
        (Some(tonic::Code::Unauthenticated), true)
    );
    let (_, without) = connect(false).await;
    assert!(!without, "a client without a certificate was served");
    assert_eq!(digest(&server.put(b"x")).size_bytes, 1);
}
