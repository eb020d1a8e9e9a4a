//! `kiln save`.

use crate::args::{SaveArgs, SaveFormat};
use crate::error::Failure;
use executor::output::ArchiveFormat;
use executor::space::Space;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;

/// Writes an archive to a file (complete or not at all) or standard output.
pub fn run(args: &SaveArgs, space: &Space) -> Result<(), Failure> {
    let format = match args.format {
        SaveFormat::Docker => ArchiveFormat::Docker,
        SaveFormat::Oci => ArchiveFormat::Oci,
    };
    let Some(path) = &args.output else {
        let stdout = std::io::stdout();
        if stdout.is_terminal() {
            return Err(Failure::Usage(
                "cowardly refusing to save to a terminal: use --output or redirect".to_owned(),
            ));
        }
        return write(args, space, format, &mut stdout.lock());
    };
    to_file(path, |file| write(args, space, format, file))
}

fn write(
    args: &SaveArgs,
    space: &Space,
    format: ArchiveFormat,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    executor::output::save(space, &args.images, format, out)?;
    out.flush()
        .map_err(|error| Failure::Other(format!("could not write the archive: {error}")))
}

fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::Other(format!("could not write {}: {error}", path.display()))
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let mut file = BufWriter::new(File::create(&temporary).map_err(failed)?);
    let written = write(&mut file).and_then(|()| std::fs::rename(&temporary, path).map_err(failed));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
