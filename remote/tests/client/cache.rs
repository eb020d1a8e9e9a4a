//! The action cache.

use crate::support::{client, nothing, run};
use bytes::Bytes;
use reapi::{Blob, Digest, Error, proto};
use testkit::reapi::{Fault, Options, Server};

fn result(content: &Blob) -> proto::ActionResult {
    proto::ActionResult {
        output_files: vec![proto::OutputFile {
            path: "out/meta.json".to_owned(),
            digest: Some(content.digest.to_proto()),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn results_are_found_once_recorded() {
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        let action = Digest::of(b"action");
        assert_eq!(client.action_result(action, &[]).await.unwrap(), None);
        let content = Blob::of(Bytes::from_static(b"{}"));
        client
            .upload(vec![content.clone()], &nothing)
            .await
            .unwrap();
        let recorded = client.update_action_result(action, result(&content)).await;
        assert!(recorded.unwrap());
        let found = client.action_result(action, &["out/meta.json"]).await;
        let file = &found.unwrap().unwrap().output_files[0];
        let bytes = client
            .content_of(&file.contents, file.digest.as_ref(), 100)
            .await;
        assert_eq!(bytes.unwrap(), "{}");
    });
}

#[test]
fn read_only_caches_are_no_error() {
    let cases: [(bool, Option<i32>, bool); 5] = [
        (false, None, true),
        (true, Some(7), true),
        (true, Some(16), true),
        (true, Some(12), true),
        (true, Some(3), false),
    ];
    for (cache_writes, refuse, read_only) in cases {
        let server = Server::start(Options {
            cache_writes,
            ..Options::default()
        });
        if let Some(code) = refuse {
            server.inject(Fault::RefuseUpdate { code });
        }
        let client = client(&server);
        run(async {
            client.capabilities().await.unwrap();
            let content = Blob::of(Bytes::from_static(b"{}"));
            client
                .upload(vec![content.clone()], &nothing)
                .await
                .unwrap();
            let recorded = client
                .update_action_result(Digest::of(b"action"), result(&content))
                .await;
            if read_only {
                assert!(!recorded.unwrap(), "{refuse:?}");
            } else {
                assert!(matches!(recorded, Err(Error::Call { .. })), "{refuse:?}");
            }
        });
    }
}

#[test]
fn inlined_content_is_compared_with_its_digest() {
    let server = Server::start(Options::default());
    let client = client(&server);
    let action = Digest::of(b"action");
    let mut lie = result(&Blob::of(Bytes::from_static(b"truth")));
    lie.output_files[0].contents = b"lies!".to_vec();
    server.set_result(&action.to_string(), lie);
    let answer = run(client.action_result(action, &["out/meta.json"]));
    match answer {
        Err(Error::Corrupt { .. }) => {}
        // A server that inlines by itself tells the truth.
        Ok(Some(result)) => assert!(result.output_files[0].contents.is_empty()),
        other => panic!("{other:?}"),
    }
}
