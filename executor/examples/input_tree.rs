//! How long root file systems take to become trees for remote execution, and what that needs in memory.
//!
//! `input_tree STORE TAR`: a base out of a tar, then a small layer over it, each for the first time and again.
//! `input_tree STORE ENTRIES`: the same over a made up base with so many empty files, a hundred in a folder.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use executor::cluster::tree::{Carried, input_tree};
use executor::layer;
use executor::snapshot::Snapshot;
use executor::space::Space;
use oci_spec::image::{Descriptor, Digest, MediaType};
use sha2::Digest as _;
use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use store::Store;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, folder, what] = &args[..] else {
        eprintln!("usage: input_tree STORE TAR|ENTRIES");
        std::process::exit(2);
    };
    let folder = Path::new(folder);
    let space = Space::new(Store::open(folder).unwrap());
    let base = match what.parse::<usize>() {
        Ok(entries) => {
            let path = folder.join("base.tar");
            made_up(entries, File::create(&path).unwrap());
            let base = register(&space, &path);
            std::fs::remove_file(path).unwrap();
            base
        }
        Err(_) => register(&space, Path::new(what)),
    };
    let path = folder.join("step.tar");
    small(File::create(&path).unwrap());
    let step = register(&space, &path);
    let both = timed("indexes", || {
        let layers = vec![base, step];
        layers
            .iter()
            .for_each(|id| drop(layer::readable(&space, id).unwrap()));
        layers
    });
    println!("memory {} kB", memory());
    let mut there = HashSet::new();
    for count in 1..=2 {
        let snapshot = Snapshot {
            layers: both[..count].to_vec(),
        };
        let carried = Carried::default();
        let tree = timed(&format!("{count} layers, first"), || {
            input_tree(&space, &snapshot, carried).unwrap()
        });
        for _ in 0..3 {
            timed(&format!("{count} layers, again"), || {
                input_tree(&space, &snapshot, carried).unwrap()
            });
        }
        let lacking = timed(&format!("{count} layers, what the server lacks"), || {
            tree.lacking(&space, &|digest| there.contains(digest))
                .unwrap()
        });
        println!("{} blobs", lacking.len());
        let blobs = timed(&format!("{count} layers, what to send"), || {
            tree.blobs(&space).unwrap()
        });
        there.extend(blobs.iter().map(|blob| blob.digest));
        let bytes: u64 = blobs.iter().map(|blob| blob.digest.size()).sum();
        println!(
            "{} blobs, {bytes} bytes; memory {} kB",
            blobs.len(),
            memory()
        );
    }
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let made = work();
    println!("{what}: {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
    made
}

/// Most memory so far, in kB.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map(|line| line.replace(" kB", "").trim().to_owned())
        .unwrap_or_default()
}

fn register(space: &Space, tar: &Path) -> Digest {
    let mut hasher = sha2::Sha256::new();
    let mut writer = space.store().blob_writer().unwrap();
    let mut file = File::open(tar).unwrap();
    let mut piece = vec![0; 1 << 20];
    loop {
        let got = std::io::Read::read(&mut file, &mut piece).unwrap();
        if got == 0 {
            break;
        }
        hasher.update(&piece[..got]);
        writer.write_all(&piece[..got]).unwrap();
    }
    let hex: String = hasher
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let diff_id = Digest::try_from(format!("sha256:{hex}")).unwrap();
    let size = writer.size();
    writer.commit(Some((&diff_id, None))).unwrap();
    let blob = Descriptor::new(MediaType::ImageLayer, size, diff_id.clone());
    layer::register_blob(space, &diff_id, &blob).unwrap();
    diff_id
}

fn header(kind: tar::EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_size(size as u64);
    header
}

fn made_up(entries: usize, out: File) {
    let mut tar = tar::Builder::new(std::io::BufWriter::new(out));
    for number in 0..entries {
        if number % 100 == 0 {
            let mut header = header(tar::EntryType::Directory, 0);
            let path = format!("usr/share/folder-{:06}", number / 100);
            tar.append_data(&mut header, path, &[][..]).unwrap();
        }
        let path = format!("usr/share/folder-{:06}/some-file-{number:08}", number / 100);
        tar.append_data(&mut header(tar::EntryType::Regular, 0), path, &[][..])
            .unwrap();
    }
    tar.into_inner().unwrap().flush().unwrap();
}

fn small(out: File) {
    let mut tar = tar::Builder::new(out);
    for path in ["etc/one", "usr/share/doc/two", "usr/bin/three"] {
        let content = path.as_bytes();
        tar.append_data(
            &mut header(tar::EntryType::Regular, content.len()),
            path,
            content,
        )
        .unwrap();
    }
    tar.into_inner().unwrap();
}
