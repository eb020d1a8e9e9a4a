//! Servers that fail, break off, lie or are slow: the right result, or a clear error within a bound.

use crate::support::{client, endpoint, hasty, noise, nothing, run};
use bytes::Bytes;
use reapi::{Blob, Client, Code, Digest, Error};
use std::time::Duration;
use testkit::reapi::{Fault, Options, Server};

const UNAVAILABLE: i32 = 14;

#[test]
fn calls_are_tried_again_and_not_for_ever() {
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        let asked = [Digest::of(b"x")];
        server.inject_times(Fault::status("FindMissingBlobs", UNAVAILABLE), 3);
        assert_eq!(client.find_missing(&asked).await.unwrap(), asked);
        assert_eq!(server.calls("FindMissingBlobs"), 4);
        server.inject(Fault::status("FindMissingBlobs", UNAVAILABLE));
        let error = client.find_missing(&asked).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(server.calls("FindMissingBlobs"), 8);
        server.clear();
        // PERMISSION_DENIED does not change by asking again.
        server.inject(Fault::status("FindMissingBlobs", 7));
        let error = client.find_missing(&asked).await.unwrap_err();
        assert!(error.is_refused() && !error.is_transient(), "{error:?}");
        assert_eq!(server.calls("FindMissingBlobs"), 9);
    });
}

#[test]
fn a_server_that_is_restarted_is_found_again() {
    let mut server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        client.capabilities().await.unwrap();
        server.restart();
        let asked = [Digest::of(b"x")];
        assert_eq!(client.find_missing(&asked).await.unwrap(), asked);
        server.down();
        let error = client.find_missing(&asked).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    });
}

#[test]
fn silence_ends_at_the_deadline() {
    let server = Server::start(Options::default());
    let client = hasty(&server, 300);
    run(async {
        server.inject(Fault::slow("FindMissingBlobs", Duration::from_secs(60)));
        let error = client.find_missing(&[Digest::of(b"x")]).await.unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    });
}

#[test]
fn broken_reads_are_resumed() {
    for compressed in [false, true] {
        let server = Server::start(Options::default());
        let client = Client::new(endpoint(&server).with_compressed_reads(compressed));
        let content = noise(5 << 20, 1);
        let digest = Digest::of(&content);
        assert_eq!(server.put(&content), digest.to_string());
        let fault = Fault::BreakRead { after: 1 << 20 };
        server.inject_times(fault.clone(), 4);
        run(async {
            let mut written = Vec::new();
            client
                .read_to(digest, &mut written, &nothing)
                .await
                .unwrap();
            assert_eq!(written, content);
        });
        assert_eq!(server.applied(&fault), 4);
    }
}

#[test]
fn broken_writes_are_resumed_or_start_again() {
    for (name, zstd) in [("plain", false), ("zstd", true)] {
        for fault in [
            Fault::BreakWrite { after: 1_500_000 },
            Fault::LoseWrite { after: 1_500_000 },
        ] {
            let server = Server::start(Options {
                zstd,
                ..Options::default()
            });
            let client = client(&server);
            // Compresses to a half.
            let mut content = noise(4 << 20, 9).to_vec();
            content.extend(vec![0; 4 << 20]);
            let blob = Blob::of(Bytes::from(content));
            server.inject_times(fault.clone(), 2);
            run(async {
                let uploaded = client.upload(vec![blob.clone()], &nothing).await.unwrap();
                assert_eq!(uploaded.bytes, 8 << 20);
            });
            assert_eq!(server.applied(&fault), 2, "{name}");
            assert!(server.blob(&blob.digest.to_string()).is_some(), "{name}");
        }
    }
}

#[test]
fn content_of_liars_is_refused() {
    for size in [100, 3 << 20] {
        for compressed in [false, true] {
            for fault in [
                Fault::WrongContent(None),
                Fault::LongContent(None),
                Fault::ShortContent(None),
            ] {
                let server = Server::start(Options::default());
                let client = Client::new(endpoint(&server).with_compressed_reads(compressed));
                let content = noise(size, 1);
                let digest = Digest::of(&content);
                server.put(&content);
                server.inject(fault.clone());
                run(async {
                    let read = client.read(digest, 100 << 20).await;
                    assert!(read.is_err(), "{fault:?}");
                    let mut out = Vec::new();
                    let error = client
                        .read_to(digest, &mut out, &nothing)
                        .await
                        .unwrap_err();
                    if fault == Fault::WrongContent(None) {
                        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
                    }
                    let many = client.read_many(&[digest]).await.unwrap();
                    assert!(many[0].1.is_err(), "{fault:?}");
                });
            }
        }
    }
}

#[test]
fn blobs_that_were_evicted_are_not_found() {
    let server = Server::start(Options::default());
    let client = client(&server);
    server.put(b"gone");
    server.inject(Fault::EvictOnRead(None));
    let error = run(client.read(Digest::of(b"gone"), 100)).unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[test]
fn one_blob_of_a_batch_is_sent_again() {
    let server = Server::start(Options::default());
    let client = client(&server);
    let blobs = || -> Vec<Blob> { (0..20).map(|seed| Blob::of(noise(100, seed))).collect() };
    run(async {
        server.inject_times(Fault::RefuseInBatch { code: UNAVAILABLE }, 2);
        let uploaded = client.upload(blobs(), &nothing).await.unwrap();
        assert_eq!(uploaded.blobs, 20);
        assert_eq!(server.blobs().len(), 20);
        server.forget();
        // INVALID_ARGUMENT stays.
        server.inject(Fault::RefuseInBatch { code: 3 });
        match client.upload(blobs(), &nothing).await {
            Err(Error::Call { source, .. }) => assert_eq!(source.code, Code::InvalidArgument),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn servers_without_batches() {
    let server = Server::start(Options::default());
    let client = client(&server);
    server.inject(Fault::status("BatchUpdateBlobs", 12));
    server.inject(Fault::status("BatchReadBlobs", 12));
    let blobs: Vec<Blob> = (0..5).map(|seed| Blob::of(noise(100, seed))).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    run(async {
        client.upload(blobs, &nothing).await.unwrap();
        for (digest, result) in client.read_many(&digests).await.unwrap() {
            assert_eq!(Digest::of(&result.unwrap()), digest);
        }
    });
}

#[test]
fn small_transfers_do_not_wait_for_large_ones() {
    let server = Server::start(Options::default());
    let client = client(&server);
    let large: Vec<Digest> = (0..6)
        .map(|seed| {
            let content = noise(5 << 20, seed);
            server.put(&content);
            Digest::of(&content)
        })
        .collect();
    server.put(b"small");
    server.inject(Fault::slow("Read", Duration::from_secs(100)));
    run(async {
        let small = client.read(Digest::of(b"small"), 100);
        tokio::select! {
            biased;
            _ = client.read_many(&large) => panic!("these take longer"),
            small = small => assert_eq!(small.unwrap(), "small"),
        }
        client
            .upload(vec![Blob::of(Bytes::from_static(b"up"))], &nothing)
            .await
            .unwrap();
    });
}
