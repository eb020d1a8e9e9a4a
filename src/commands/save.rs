//! `kiln save`.

use super::connect::fetching;
use super::{Opener, platforms};
use crate::args::{SaveArgs, SaveFormat};
use crate::environment::Environment;
use crate::error::Failure;
use executor::layer::Compression;
use executor::output::{ArchiveFormat, SaveOptions, SaveTarget};
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;

/// Writes an archive to a file (complete or not at all) or standard output, or a layout into a folder.
pub fn run(args: &SaveArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    let options = SaveOptions {
        format: match args.format {
            SaveFormat::Docker => ArchiveFormat::Docker,
            SaveFormat::Oci | SaveFormat::OciDir => ArchiveFormat::Oci,
        },
        platforms: platforms(&args.platforms)?,
        compression: args.compression.as_deref().map(compression).transpose()?,
    };
    let remote = fetching(&args.registry, environment)?;
    let space = open.space()?;
    let with = (&space, &remote);
    let save =
        |target: SaveTarget<'_>| executor::output::save(with, &args.images, &options, target);
    match (&args.output, args.format) {
        (Some(dir), SaveFormat::OciDir) => Ok(save(SaveTarget::Folder(dir))?),
        (None, SaveFormat::OciDir) => Err(Failure::Usage(
            "--format oci-dir writes a folder: name it with --output".to_owned(),
        )),
        (Some(path), _) if path.as_os_str() != "-" => {
            to_file(path, |file| Ok(save(SaveTarget::Archive(file))?))
        }
        _ => to_stdout(|out| Ok(save(SaveTarget::Archive(out))?)),
    }
}

/// `zstd:19`: the algorithm and its level.
fn compression(text: &str) -> Result<Compression, Failure> {
    let (name, level) = match text.split_once(':') {
        Some((name, level)) => (name, Some(level)),
        None => (text, None),
    };
    let bad = || {
        Failure::Usage(format!(
            "invalid value {text:?} for '--compression': use uncompressed, gzip (levels 0 to 9) or zstd (levels 1 to 22)"
        ))
    };
    let level = match level {
        Some(level) => Some(level.parse::<u32>().map_err(|_| bad())?),
        None => None,
    };
    match (name, level) {
        ("uncompressed", None) => Ok(Compression::Uncompressed),
        ("gzip", None) => Ok(Compression::AutoGzip),
        ("gzip", Some(level @ 0..=9)) => Ok(Compression::Gzip(level)),
        ("zstd", level @ (None | Some(1..=22))) => {
            Ok(Compression::Zstd(level.unwrap_or(3).cast_signed()))
        }
        _ => Err(bad()),
    }
}

/// Hands standard output to a writer, unless it is a terminal.
pub fn to_stdout(write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        return Err(Failure::Other(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect".to_owned(),
        ));
    }
    let mut out = BufWriter::with_capacity(256 << 10, stdout.lock());
    write(&mut out)?;
    out.flush()
        .map_err(|error| Failure::Other(format!("could not write the archive: {error}")))
}

/// Hands a file to a writer; it gets its name when it is complete.
pub fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::Other(format!("could not write {}: {error}", path.display()))
    };
    // A pipe, a device: there is nothing to rename.
    if path
        .metadata()
        .is_ok_and(|meta| !meta.is_file() && !meta.is_dir())
    {
        let mut out = BufWriter::new(File::options().write(true).open(path).map_err(failed)?);
        write(&mut out)?;
        return out.flush().map_err(failed);
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let mut file = BufWriter::with_capacity(256 << 10, File::create(&temporary).map_err(failed)?);
    let written = write(&mut file)
        .and_then(|()| file.flush().map_err(failed))
        .and_then(|()| std::fs::rename(&temporary, path).map_err(failed));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
