//! A real server, buildbox-casd, which says little while it works.

use crate::support::{noise, nothing, run};
use bytes::Bytes;
use reapi::{Blob, Client, Digest, Endpoint, Error, ExecuteOptions, message_digest, proto};
use std::future::pending;
use std::time::Duration;
use testkit::reapi::{Buildbox, BuildboxSetup};

fn client(server: &Buildbox) -> Client {
    Client::new(Endpoint::parse(&server.url()).unwrap())
}

/// An action of busybox, with this ISA. `None`, said loudly, where there is no busybox.
fn busybox(arguments: &[&str], isa: &str) -> Option<(Digest, Vec<Blob>)> {
    let Ok(program) = std::fs::read("/bin/busybox") else {
        eprintln!("SKIPPED: there is no /bin/busybox");
        return None;
    };
    let program = Blob::of(Bytes::from(program));
    let (root, root_bytes) = message_digest(&proto::Directory {
        files: vec![proto::FileNode {
            name: "busybox".to_owned(),
            digest: Some(program.digest.to_proto()),
            is_executable: true,
            ..Default::default()
        }],
        ..Default::default()
    });
    let properties = Buildbox::properties().map(|(name, value)| proto::platform::Property {
        name: name.to_owned(),
        value: if name == "ISA" { isa } else { value }.to_owned(),
    });
    let platform = Some(proto::Platform {
        properties: properties.into(),
    });
    #[allow(deprecated)]
    let command = proto::Command {
        arguments: [&["./busybox"], arguments]
            .concat()
            .iter()
            .map(|text| (*text).to_owned())
            .collect(),
        platform: platform.clone(),
        ..Default::default()
    };
    let (command, command_bytes) = message_digest(&command);
    let (action, action_bytes) = message_digest(&proto::Action {
        command_digest: Some(command.to_proto()),
        input_root_digest: Some(root.to_proto()),
        platform,
        ..Default::default()
    });
    let messages = [root_bytes, command_bytes, action_bytes].map(Blob::of);
    Some((action, [vec![program], messages.into()].concat()))
}

fn options() -> ExecuteOptions {
    ExecuteOptions {
        skip_cache_lookup: true,
        properties: vec![("ISA".to_owned(), "arm-a64".to_owned())],
        ..ExecuteOptions::default()
    }
}

#[test]
fn blobs_and_results() {
    let Some(server) = Buildbox::start(&BuildboxSetup::default()) else {
        return;
    };
    let client = client(&server);
    run(async {
        let sizes = [1, 1000, 100_000, 3 << 20];
        let blobs: Vec<Blob> = sizes.map(|size| Blob::of(noise(size, 5))).into();
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        assert_eq!(client.find_missing(&digests).await.unwrap().len(), 4);
        client.upload(blobs.clone(), &nothing).await.unwrap();
        client.upload(blobs, &nothing).await.unwrap();
        assert_eq!(client.find_missing(&digests).await.unwrap(), []);
        for (digest, result) in client.read_many(&digests).await.unwrap() {
            assert_eq!(Digest::of(&result.unwrap()), digest);
            let mut written = Vec::new();
            client
                .read_to(digest, &mut written, &nothing)
                .await
                .unwrap();
            assert_eq!(Digest::of(&written), digest);
        }
        let error = client.read(Digest::of(b"absent"), 10).await.unwrap_err();
        assert!(error.is_not_found(), "{error:?}");
        let action = Digest::of(b"action");
        assert_eq!(client.action_result(action, &[]).await.unwrap(), None);
        let result = proto::ActionResult {
            exit_code: 3,
            ..Default::default()
        };
        assert!(
            client
                .update_action_result(action, result.clone())
                .await
                .unwrap()
        );
        let found = client.action_result(action, &[]).await.unwrap().unwrap();
        assert_eq!(found.exit_code, 3);
    });
}

#[test]
fn commands_may_take_longer_than_the_queue() {
    let Some(server) = Buildbox::start(&BuildboxSetup::default()) else {
        return;
    };
    let client = client(&server);
    let Some((action, blobs)) = busybox(&["sleep", "2"], "x86-64") else {
        return;
    };
    run(async {
        client.upload(blobs, &nothing).await.unwrap();
        let options = ExecuteOptions {
            queue_timeout: Some(Duration::from_millis(100)),
            ..options()
        };
        let done = client.execute(action, &options, &|_| {}, pending()).await;
        assert_eq!(done.unwrap().result.exit_code, 0);
    });
}

#[test]
fn a_wrong_isa_and_a_missing_blob() {
    let Some(server) = Buildbox::start(&BuildboxSetup::default()) else {
        return;
    };
    let client = client(&server);
    let Some((action, blobs)) = busybox(&["true"], "arm-a64") else {
        return;
    };
    run(async {
        client.upload(blobs, &nothing).await.unwrap();
        let error = client
            .execute(action, &options(), &|_| {}, pending())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NoWorker { .. }), "{error:?}");
        let (action, mut blobs) = busybox(&["true"], "x86-64").unwrap();
        // The root's message. A file that lacks is found out by the command only, with lazy staging.
        let root = blobs.remove(1);
        assert!(server.evict(&root.digest.to_string()));
        client.upload(blobs, &nothing).await.unwrap();
        let error = client
            .execute(action, &options(), &|_| {}, pending())
            .await
            .unwrap_err();
        assert!(
            error.is_missing_blobs() || error.is_worker_lost(),
            "{error:?}"
        );
    });
}

#[test]
fn cancelling_ends_the_command() {
    let Some(server) = Buildbox::start(&BuildboxSetup::default()) else {
        return;
    };
    let client = client(&server);
    let Some((action, blobs)) = busybox(&["sleep", "100"], "x86-64") else {
        return;
    };
    run(async {
        client.upload(blobs, &nothing).await.unwrap();
        let running = async {
            while server.children() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let error = client
            .execute(action, &options(), &|_| {}, running)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
        while server.children() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}
