//! Prints how fast layers are written, read, unpacked, captured and compressed here. Arguments: a folder to work in, and
//! optionally a tar to take for reading and compressing (default: what was written).

use executor::layer::{self, BlockCompressor, Compression, LayerWriter};
use executor::snapshot::{Snapshot, View};
use executor::space::Space;
use executor::tree::{Entry, FileTree as _, Kind};
use oci_spec::image::{Descriptor, MediaType};
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::Store;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = args.next().ok_or("which folder?")?;
    fs::create_dir_all(&folder)?;
    let space = Space::new(Store::open(&folder.join("store"))?);
    let (large, small) = (folder.join("large"), folder.join("small"));
    make_files(&large, 8, 128 << 20)?;
    make_files(&small, 50_000, 5_200)?;
    for _ in 0..3 {
        write_layer(&large, &folder.join("large.tar"), "write 1 GiB in 8 files")?;
        write_layer(&small, &folder.join("small.tar"), "write 50,000 files")?;
    }
    let tar = args.next().unwrap_or_else(|| folder.join("small.tar"));
    for compression in [
        Compression::Gzip(6),
        Compression::Gzip(1),
        Compression::Zstd(3),
    ] {
        compress(&tar, compression)?;
    }
    unpack(&space, &tar)?;
    capture(&space, &small, &folder)?;
    peak()
}

/// Wall clock and CPU time at the beginning of a step.
struct Start {
    wall: Instant,
    cpu: Duration,
}

impl Start {
    fn now() -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu_time(),
        }
    }
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

fn report(what: &str, start: &Start, bytes: u64) {
    let (wall, cpu) = (
        start.wall.elapsed().as_secs_f64(),
        (cpu_time() - start.cpu).as_secs_f64(),
    );
    let speed = bytes as f64 / 1e6;
    let line = format!(
        "{what:40} {wall:7.3} s {:6.0} MB/s   CPU {cpu:7.3} s {:6.0} MB/s\n",
        speed / wall,
        speed / cpu
    );
    drop(std::io::stdout().write_all(line.as_bytes()));
}

/// Files whose content neither repeats nor compresses to nothing.
fn make_files(dir: &Path, count: u32, size: usize) -> Outcome<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let mut state = 7u32;
    let mut content = vec![0u8; size];
    for number in 0..count {
        let sub = dir.join(format!("d{:03}", number / 100));
        fs::create_dir_all(&sub)?;
        for part in content.chunks_exact_mut(4) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            part.copy_from_slice(&(state >> 9 & 0x7f_1f_3f_0f).to_le_bytes());
        }
        fs::write(sub.join(format!("f{number:05}")), &content)?;
    }
    Ok(())
}

fn entry(path: String, kind: Kind) -> Entry {
    Entry {
        path: path.into_bytes(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 1,
        xattrs: Vec::new(),
    }
}

fn write_layer(dir: &Path, tar: &Path, what: &str) -> Outcome<()> {
    drop(fs::remove_file(tar));
    let start = Start::now();
    let mut writer = LayerWriter::new(File::create(tar)?);
    let mut subs: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    subs.sort();
    for sub in subs {
        let name = sub.strip_prefix(dir)?.display().to_string();
        writer.entry(&entry(name.clone(), Kind::Directory), None)?;
        let mut files: Vec<PathBuf> = fs::read_dir(&sub)?
            .map(|e| e.map(|e| e.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        for path in files {
            let mut file = File::open(&path)?;
            let kind = Kind::File {
                size: file.metadata()?.len(),
                digest: None,
            };
            let name = format!("{name}/{}", path.file_name().unwrap_or_default().display());
            writer.entry(&entry(name, kind), Some(&mut file))?;
        }
    }
    let written = writer.finish(&tar.with_extension("index"))?;
    report(what, &start, written.size);
    Ok(())
}

/// Counts what is written.
struct Count(u64);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn compress(tar: &Path, compression: Compression) -> Outcome<()> {
    let start = Start::now();
    let mut sink = BlockCompressor::new(Count(0), compression, None)?;
    let size = std::io::copy(&mut File::open(tar)?, &mut sink)?;
    let packed = sink.finish()?.0;
    report(
        &format!(
            "{compression:?}, to {:.1} %",
            packed as f64 * 100.0 / size as f64
        ),
        &start,
        size,
    );
    Ok(())
}

fn unpack(space: &Space, tar: &Path) -> Outcome<()> {
    let size = fs::metadata(tar)?.len();
    let store = space.store();
    let mut hasher = store.blob_writer()?;
    std::io::copy(&mut File::open(tar)?, &mut hasher)?;
    let (diff_id, _) = hasher.commit(None)?;
    let start = Start::now();
    let plain = Descriptor::new(MediaType::ImageLayer, size, diff_id.clone());
    layer::register_blob(space, &diff_id, &plain)?;
    layer::readable(space, &diff_id)?;
    report("index a plain tar", &start, size);
    let start = Start::now();
    let tree = layer::tree(space, &diff_id)?;
    report("unpack a plain tar", &start, size);
    let start = Start::now();
    let blob = layer::blob(space, &diff_id, Compression::Gzip(6), false)?;
    report("blob, gzip", &start, size);
    space.remove_tree(&tree)?;
    fs::remove_file(store.blob_path(&diff_id))?;
    let start = Start::now();
    layer::tree(space, &diff_id)?;
    report("unpack its gzip blob", &start, size);
    fs::remove_file(store.layer_index(&diff_id).ok_or("no index")?)?;
    let start = Start::now();
    let files = layer::readable(space, &diff_id)?;
    report("index its gzip blob, keeping the tar", &start, size);
    let start = Start::now();
    let view = View::load(&[files])?;
    report(
        "load the index",
        &start,
        fs::metadata(store.layer_index(&diff_id).ok_or("no index")?)?.len(),
    );
    let start = Start::now();
    let mut pending = vec![Vec::new()];
    let (mut count, mut bytes) = (0u64, 0);
    while let Some(dir) = pending.pop() {
        for (name, entry) in view.children(&dir)? {
            let path = if dir.is_empty() {
                name
            } else {
                [dir.as_slice(), b"/", &name].concat()
            };
            count += 1;
            match entry.kind {
                Kind::Directory => pending.push(path),
                Kind::File { .. } => {
                    bytes += std::io::copy(&mut view.open(&path)?, &mut std::io::sink())?;
                }
                _ => {}
            }
        }
    }
    report(
        &format!("walk and read the view, {count} entries"),
        &start,
        bytes,
    );
    drop(blob);
    Ok(())
}

fn capture(space: &Space, small: &Path, folder: &Path) -> Outcome<()> {
    let upper = folder.join("store/upper");
    let status = std::process::Command::new("cp")
        .args(["-a"])
        .arg(small)
        .arg(&upper)
        .status()?;
    if !status.success() {
        return Err("cp".into());
    }
    let start = Start::now();
    let written = layer::capture(space, &upper, &Snapshot::default())?;
    report("capture 50,000 files", &start, written.size);
    let start = Start::now();
    layer::blob(space, &written.diff_id, Compression::Uncompressed, false)?;
    report("write its tar from the tree", &start, written.size);
    let start = Start::now();
    layer::blob(space, &written.diff_id, Compression::Gzip(6), false)?;
    report("blob, gzip", &start, written.size);
    Ok(())
}

fn peak() -> Outcome<()> {
    let mut status = String::new();
    File::open("/proc/self/status")?.read_to_string(&mut status)?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or_default();
    Ok(std::io::stdout().write_all(format!("{line}\n").as_bytes())?)
}
