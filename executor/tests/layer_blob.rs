//! Blobs of layers: deterministic compression that every reader takes, results remembered, times clamped.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod layer_support;

use executor::layer::{self, BlockCompressor, Compression};
use executor::snapshot::View;
use executor::tree::FileTree as _;
use layer_support::{Scratch, TarMaker, gzip, sha256};
use oci_spec::image::{Digest, MediaType};
use std::fs;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

/// Bytes that compress as files do, a little more than five blocks.
fn sample() -> Vec<u8> {
    let mut state = 1u32;
    let mut bytes = Vec::new();
    while bytes.len() < 5_500_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = ["alpha", "beta", "gamma", "delta "][(state >> 30) as usize];
        bytes.extend_from_slice(word.as_bytes());
        bytes.extend_from_slice(&state.to_le_bytes()[..(state >> 28) as usize % 3]);
    }
    bytes
}

fn compress(bytes: &[u8], compression: Compression, threads: usize, step: usize) -> Vec<u8> {
    let mut sink = BlockCompressor::new(Vec::new(), compression, NonZero::new(threads)).unwrap();
    for part in bytes.chunks(step) {
        sink.write_all(part).unwrap();
    }
    sink.finish().unwrap()
}

#[test]
fn threads_and_portions_make_no_difference() {
    let bytes = sample();
    for compression in [
        Compression::AutoGzip,
        Compression::Gzip(6),
        Compression::Gzip(1),
        Compression::Zstd(3),
        Compression::Zstd(-1),
    ] {
        let one = compress(&bytes, compression, 1, 1 << 20);
        assert!(
            one.len() < bytes.len() / 2,
            "{compression:?}: {}",
            one.len()
        );
        for (threads, step) in [(2, 1 << 20), (3, 1 << 20), (1, 777), (5, 3_000_000)] {
            assert!(
                one == compress(&bytes, compression, threads, step),
                "{compression:?} {threads} {step}"
            );
        }
    }
}

#[test]
fn levels_that_do_not_exist() {
    for compression in [
        Compression::Gzip(13),
        Compression::Zstd(99),
        Compression::Uncompressed,
    ] {
        assert!(BlockCompressor::new(Vec::new(), compression, None).is_err());
    }
}

/// Words in an order without sense.
fn prose(length: usize) -> Vec<u8> {
    let words = [
        "the", "of", "and", "layer", "image", "build", "cache", "manifest", "config", "digest",
        "step", "user", "label", "path", "file", "index", "upper", "lower", "work", "merge",
        "sha256", "gzip", "entry", "header", "name", "mode", "size", "type", "link", "root",
    ];
    let mut state = 7_u64;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend_from_slice(words[(state >> 33) as usize % words.len()].as_bytes());
        bytes.push(b' ');
    }
    bytes.truncate(length);
    bytes
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 3_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Without a level each block has the encoder that suits it, and one that does not shrink costs a few bytes.
#[test]
fn gzip_without_a_level_goes_by_content() {
    let block = 1 << 20;
    let program = fs::read(std::env::current_exe().unwrap()).unwrap();
    let program = &program[..program.len().min(4 * block)];
    let (prose, noise) = (prose(2 * block), noise(block));
    let size = |input: &[u8], compression| {
        let packed = compress(input, compression, 2, 1 << 20);
        let mut out = Vec::new();
        let mut reader = flate2::read::MultiGzDecoder::new(packed.as_slice());
        reader.read_to_end(&mut out).unwrap();
        assert!(out == input);
        packed
    };
    let both = |input: &[u8]| {
        (
            size(input, Compression::AutoGzip),
            size(input, Compression::Gzip(6)),
        )
    };
    let (auto, six) = both(&prose);
    assert!(
        auto.len() * 100 < six.len() * 98,
        "words: {} {}",
        auto.len(),
        six.len()
    );
    let (auto, six) = both(&vec![0; block]);
    assert!(auto.len() <= six.len() + 100, "zeros: {}", auto.len());
    let (auto, _) = both(&noise);
    assert!(auto.len() < block + 200, "noise: {}", auto.len());
    let (auto, six) = both(program);
    assert!(
        auto.len() * 100 <= six.len() * 102,
        "a program: {} {}",
        auto.len(),
        six.len()
    );
    let (auto, six) = both(&program[program.len() / 2..][..block]);
    assert!(auto == six, "code: {} {}", auto.len(), six.len());
    let mixed = [&prose[..block], &noise, &program[..block], b"short"].concat();
    let apart: Vec<u8> = [&prose[..block], &noise, &program[..block], b"short"]
        .iter()
        .flat_map(|part| compress(part, Compression::AutoGzip, 1, 1 << 20))
        .collect();
    assert!(
        compress(&mixed, Compression::AutoGzip, 3, 12_345) == apart,
        "each block by itself"
    );
}

/// What a program makes of bytes on its standard input; `None` when there is no such program.
fn through(program: &str, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let spawned = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        eprintln!("SKIPPED: there is no {program}");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{program}");
    Some(output.stdout)
}

#[test]
fn other_readers_take_it() {
    let bytes = sample();
    for input in [bytes.as_slice(), b"", b"x"] {
        let python =
            "import gzip,sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
        for compression in [Compression::Gzip(6), Compression::AutoGzip] {
            let packed = compress(input, compression, 2, 1 << 20);
            for (program, args) in [("gzip", vec!["-dc"]), ("python3", vec!["-c", python])] {
                if let Some(output) = through(program, &args, &packed) {
                    assert!(output == input, "{program}");
                }
            }
        }
        let packed = compress(input, Compression::Zstd(3), 2, 1 << 20);
        assert!(zstd::decode_all(packed.as_slice()).unwrap() == input);
        if let Some(output) = through("zstd", &["-dc"], &packed) {
            assert!(output == input);
        }
    }
}

fn layer_of(content: &str) -> Vec<u8> {
    TarMaker::new()
        .dir("d")
        .file("d/b", content)
        .hardlink("d/a", "d/b")
        .file("d/.wh.gone", "")
        .end()
}

fn bytes_of(scratch: &Scratch, digest: &Digest) -> Vec<u8> {
    fs::read(scratch.space.store().blob_path(digest)).unwrap()
}

#[test]
fn pulled_blobs_are_taken_where_they_fit() {
    let (scratch, tar) = (Scratch::new(), layer_of("content"));
    let pulled = gzip(&tar);
    let diff_id = scratch.register(&tar, &pulled);
    let blob =
        |compression, force| layer::blob(&scratch.space, &diff_id, compression, force).unwrap();
    let same = blob(Compression::Gzip(6), false);
    assert_eq!(
        (same.digest(), same.size()),
        (&sha256(&pulled), pulled.len() as u64)
    );
    let forced = blob(Compression::Gzip(9), true);
    assert_ne!(forced.digest(), same.digest());
    assert_eq!(*forced.media_type(), MediaType::ImageLayerGzip);
    assert_eq!(forced.digest(), blob(Compression::Gzip(9), true).digest());
    assert_eq!(
        blob(Compression::Gzip(9), false).digest(),
        forced.digest(),
        "the same encoder goes before a pulled one"
    );
    let zstd = blob(Compression::Zstd(3), false);
    assert_eq!(*zstd.media_type(), MediaType::ImageLayerZstd);
    assert_eq!(
        zstd::decode_all(bytes_of(&scratch, zstd.digest()).as_slice()).unwrap(),
        tar
    );
    let plain = blob(Compression::Uncompressed, false);
    assert_eq!(
        (plain.digest(), bytes_of(&scratch, plain.digest()) == tar),
        (&diff_id, true)
    );
}

#[test]
fn results_are_remembered() {
    let (scratch, tar) = (Scratch::new(), layer_of("content"));
    let diff_id = scratch.register(&tar, &tar);
    let made = layer::blob(&scratch.space, &diff_id, Compression::Gzip(6), false).unwrap();
    let path = scratch.space.store().blob_path(made.digest());
    let file = || fs::metadata(&path).unwrap().ino();
    let before = file();
    assert_eq!(
        layer::blob(&scratch.space, &diff_id, Compression::Gzip(6), true)
            .unwrap()
            .digest(),
        made.digest()
    );
    assert_eq!(file(), before);
    fs::remove_file(&path).unwrap();
    let again = layer::blob(&scratch.space, &diff_id, Compression::Gzip(6), false).unwrap();
    assert_eq!(again.digest(), made.digest());
    assert!(path.exists(), "made anew when it is gone");
}

#[test]
fn a_damaged_tar_is_not_compressed() {
    let (scratch, tar) = (Scratch::new(), layer_of("content"));
    let diff_id = scratch.register(&tar, &tar);
    let path = scratch.space.store().blob_path(&diff_id);
    fs::remove_file(&path).unwrap();
    fs::write(&path, layer_of("CONTENT")).unwrap();
    let error = layer::blob(&scratch.space, &diff_id, Compression::Gzip(6), false).unwrap_err();
    assert!(executor::error::chain(&error).contains("digest"), "{error}");
}

#[test]
fn times_above_the_epoch_are_set_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = layer_support::file("old", 1);
    old.mtime = 5;
    let items = [
        (old, Some(b"o".as_slice())),
        (layer_support::file("young", 3), Some(b"abc".as_slice())),
    ];
    let (written, tar, _) = layer_support::write(folder.path(), "x", &items, &["gone"]);
    let scratch = Scratch::new();
    let diff_id = scratch.register(&tar, &gzip(&tar));
    let clamp = |epoch| layer::clamp_times(&scratch.space, &diff_id, epoch).unwrap();
    assert_eq!(clamp(2_000_000_000), diff_id, "nothing to change");
    let clamped = clamp(1000);
    assert_ne!(clamped, diff_id);
    assert_eq!(clamp(1000), clamped);
    let files = layer::readable(&scratch.space, &clamped).unwrap();
    let view = View::load(&[files]).unwrap();
    let times = [b"old".as_slice(), b"young"].map(|path| view.entry(path).unwrap().unwrap().mtime);
    assert_eq!(times, [5, 1000]);
    let meta = scratch.space.store().layer(&clamped).unwrap().unwrap();
    assert_eq!(meta.identity, Some(written.identity), "content is the same");
    let mut content = String::new();
    view.open(b"young")
        .unwrap()
        .read_to_string(&mut content)
        .unwrap();
    assert_eq!(content, "abc");
}

/// A layer whose hard link comes before its file, with an opaque directory and a replaced one.
#[test]
fn foreign_layers_become_canonical_when_clamped() {
    let tar = TarMaker::new()
        .pax(&[("mtime", b"1500000000.5")])
        .file("z", "shared")
        .hardlink("a", "z")
        .hardlink("m", "z")
        .file("opq/.wh..wh..opq", "")
        .dir("opq")
        .file("empty", "")
        .end();
    let scratch = Scratch::new();
    let diff_id = scratch.register(&tar, &gzip(&tar));
    let clamped = layer::clamp_times(&scratch.space, &diff_id, 1_400_000_000).unwrap();
    let blob = layer::blob(&scratch.space, &clamped, Compression::Uncompressed, false).unwrap();
    let bytes = bytes_of(&scratch, blob.digest());
    let mut archive = tar::Archive::new(bytes.as_slice());
    let rows: Vec<(String, String)> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let link = entry
                .link_name()
                .unwrap()
                .map(|l| l.display().to_string())
                .unwrap_or_default();
            (entry.path().unwrap().display().to_string(), link)
        })
        .collect();
    let expected = [
        ("a", ""),
        ("empty", ""),
        ("m", "a"),
        ("opq/", ""),
        ("opq/.wh..wh..opq", ""),
        ("z", "a"),
    ]
    .map(|(p, l)| (p.into(), l.into()));
    assert_eq!(rows, expected);
    let view = View::load(&[layer::readable(&scratch.space, &clamped).unwrap()]).unwrap();
    assert_eq!(view.read(b"z", 99).unwrap().unwrap(), b"shared");
    assert_eq!(view.link_id(b"a"), view.link_id(b"z"));
}

#[test]
fn a_blob_of_another_layer_does_not_stand_in_the_way() {
    let (scratch, tar) = (Scratch::new(), layer_of("content"));
    let diff_id = scratch.register(&tar, &gzip(&layer_of("another")));
    let error = layer::readable(&scratch.space, &diff_id).unwrap_err();
    assert!(error.to_string().contains(&diff_id.to_string()), "{error}");

    scratch.register(&tar, &gzip(&layer_of("a third")));
    scratch.register(&tar, &gzip(&tar));
    let files = layer::readable(&scratch.space, &diff_id).unwrap();
    assert_eq!(fs::read(files.tar.unwrap()).unwrap(), tar);
    layer::tree(&scratch.space, &diff_id).unwrap();
}
