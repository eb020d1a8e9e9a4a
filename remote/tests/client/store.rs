//! Blobs to and from the server, when all is well.

use crate::support::{client, endpoint, noise, nothing, run};
use bytes::Bytes;
use reapi::{Blob, Client, Content, Digest, Error, Source};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use testkit::reapi::{Options, Server};

struct Made(Bytes, AtomicU64);

impl Source for Made {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(io::Cursor::new(self.0.clone())))
    }
}

fn source(bytes: &Bytes) -> Arc<Made> {
    Arc::new(Made(bytes.clone(), AtomicU64::new(0)))
}

#[test]
fn blobs_of_all_sizes_go_and_come() {
    for (zstd, max_batch, compressed_reads) in [
        (true, 4 << 20, true),
        (true, 1000, false),
        (false, 4 << 20, true),
        (false, 700, false),
    ] {
        let server = Server::start(Options {
            zstd,
            max_batch,
            instance: "some/instance".to_owned(),
            ..Options::default()
        });
        let client = Client::new(endpoint(&server).with_compressed_reads(compressed_reads));
        run(async {
            let sizes = [0, 1, 500, 4096, 70_000, (1 << 20) + 1, (3 << 20) + 12_345];
            let mut blobs: Vec<Blob> = Vec::new();
            for size in sizes {
                for content in [noise(size, size as u64), Bytes::from(vec![b'a'; size])] {
                    let digest = Digest::of(&content);
                    let content = Content::Source(source(&content));
                    blobs.push(Blob { digest, content });
                    blobs.push(blobs[blobs.len() - 1].clone());
                }
            }
            let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
            let distinct = sizes.len() * 2 - 2;
            let missing = client.find_missing(&digests).await.unwrap();
            assert_eq!(missing.len(), distinct, "the empty blob is never missing");
            let sent = AtomicU64::new(0);
            let count = |bytes| {
                sent.fetch_add(bytes, Ordering::Relaxed);
            };
            let uploaded = client.upload(blobs, &count).await.unwrap();
            let total: u64 = missing.iter().map(Digest::size).sum();
            assert_eq!(sent.into_inner(), total);
            assert_eq!((uploaded.blobs, uploaded.bytes), (distinct as u64, total));
            if zstd {
                assert!(uploaded.sent < total * 2 / 3, "{uploaded:?}");
            } else {
                assert_eq!(uploaded.sent, total);
            }
            assert_eq!(client.find_missing(&digests).await.unwrap(), []);
            let all = client.read_many(&digests).await.unwrap();
            assert_eq!(all.len(), distinct + 1, "each once");
            for (digest, result) in all {
                assert_eq!(Digest::of(&result.unwrap()), digest);
                let one = client.read(digest, 100 << 20).await.unwrap();
                assert_eq!(Digest::of(&one), digest);
                let mut written = Vec::new();
                client
                    .read_to(digest, &mut written, &nothing)
                    .await
                    .unwrap();
                assert_eq!(Digest::of(&written), digest);
            }
        });
    }
}

#[test]
fn many_small_blobs_take_few_calls() {
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        let blobs: Vec<Blob> = (0..2000).map(|seed| Blob::of(noise(4096, seed))).collect();
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        client.upload(blobs, &nothing).await.unwrap();
        assert!(server.calls("BatchUpdateBlobs") <= 5);
        assert_eq!(server.calls("Write"), 0);
        let read = client.read_many(&digests).await.unwrap();
        let order: Vec<Digest> = read.iter().map(|(digest, _)| *digest).collect();
        assert_eq!(order, digests);
        let many: Vec<Digest> = (0..12_000u32)
            .map(|seed| Digest::of(&seed.to_be_bytes()))
            .collect();
        assert_eq!(client.find_missing(&many).await.unwrap().len(), 12_000);
        assert_eq!(server.calls("FindMissingBlobs"), 3);
        assert_eq!(server.calls("GetCapabilities"), 1);
    });
}

#[test]
fn what_is_not_there_is_told_apart() {
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        let (there, absent) = (Bytes::from_static(b"there"), Digest::of(b"absent"));
        let there = Blob::of(there);
        client.upload(vec![there.clone()], &nothing).await.unwrap();
        let error = client.read(absent, 100).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert_eq!(error.missing_blobs(), [absent]);
        let error = client
            .read_to(absent, &mut io::sink(), &nothing)
            .await
            .unwrap_err();
        assert!(error.is_not_found(), "{error}");
        let both = client.read_many(&[absent, there.digest]).await.unwrap();
        assert!(both[0].1.as_ref().is_err_and(Error::is_not_found));
        assert_eq!(both[1].1.as_ref().unwrap(), "there");
        let error = client.read(there.digest, 4).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit: 4, .. }), "{error}");
    });
}

#[test]
fn content_that_changed_is_not_stored() {
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        for size in [1000, 3 << 20] {
            for (length, seed) in [(size, 1), (size - 1, 0), (size + 1, 0)] {
                let content = noise(length, seed);
                let digest = Digest::of(&noise(size, 0));
                let blob = Blob {
                    digest,
                    content: Content::Source(source(&content)),
                };
                let error = client.upload(vec![blob], &nothing).await.unwrap_err();
                assert!(matches!(error, Error::Changed { .. }), "{error}");
            }
        }
    });
    assert_eq!(server.blobs(), Vec::<String>::new());
}

struct Unreadable(usize);

impl Source for Unreadable {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        if self.0 == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(io::repeat(0).take(self.0 as u64).chain(Broken)))
    }
}

#[test]
fn content_that_cannot_be_read_is_an_error_of_its_own() {
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        for (size, readable) in [(1000, 0), (1000, 500), (9 << 20, 0), (9 << 20, 6 << 20)] {
            let digest = Digest::of(&vec![0; size]);
            let content = Content::Source(Arc::new(Unreadable(readable)));
            let error = client
                .upload(vec![Blob { digest, content }], &nothing)
                .await
                .unwrap_err();
            assert!(matches!(error, Error::Source { .. }), "{error}");
        }
    });
    assert_eq!(server.blobs(), Vec::<String>::new());
}

#[test]
fn a_blob_that_is_there_already_is_not_sent_to_its_end() {
    let server = Server::start(Options {
        zstd: false,
        ..Options::default()
    });
    let client = client(&server);
    run(async {
        let blob = Blob::of(noise(40 << 20, 3));
        client.upload(vec![blob.clone()], &nothing).await.unwrap();
        let again = client.upload(vec![blob], &nothing).await.unwrap();
        assert_eq!(again.blobs, 1);
        assert!(again.sent < 40 << 20, "{again:?}");
    });
}

#[test]
fn futures_can_go_to_other_threads() {
    fn is_send<T: Send>(_: T) {}
    let server = Server::start(Options::default());
    let client = client(&server);
    is_send(client.capabilities());
    is_send(client.find_missing(&[]));
    is_send(client.upload(Vec::new(), &nothing));
    is_send(client.read(Digest::EMPTY, 0));
    is_send(client.read_many(&[]));
    is_send(client.read_to(Digest::EMPTY, &mut Vec::new(), &nothing));
    is_send(client.action_result(Digest::EMPTY, &[]));
    is_send(client.update_action_result(Digest::EMPTY, reapi::proto::ActionResult::default()));
    is_send(client.execute(
        Digest::EMPTY,
        &reapi::ExecuteOptions::default(),
        &|_| {},
        std::future::pending(),
    ));
}
