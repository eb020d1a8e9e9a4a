//! Kiln's own program for workers: this very executable where workers are like this machine and it needs nothing else,
//! else what `binary=` names.

use crate::request::ExecutorSettings;
use planner::platform::Platform;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// This executable, even when its file has been replaced.
const OWN: &str = "/proc/self/exe";
/// `PT_INTERP` of ELF program headers: the program needs a loader, and so libraries.
const INTERPRETER: u32 = 3;
/// Most program headers that are looked at.
const MOST_HEADERS: u16 = 512;

/// A program, by its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Program {
    pub path: PathBuf,
    pub sha256: [u8; 32],
    pub size: u64,
}

/// The programs of a build, each looked at once.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    known: Mutex<HashMap<String, Arc<Result<Program, String>>>>,
}

impl Programs {
    /// The program for workers of an architecture; otherwise why there is none, with what to do about it.
    pub(crate) fn of(
        &self,
        settings: &ExecutorSettings,
        architecture: &str,
    ) -> Arc<Result<Program, String>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.entry(architecture.to_owned());
        Arc::clone(found.or_insert_with(|| Arc::new(find(settings, architecture))))
    }
}

fn find(settings: &ExecutorSettings, architecture: &str) -> Result<Program, String> {
    let given = settings.binaries.get(architecture);
    if given.is_none() && Platform::host().architecture != architecture {
        return Err(format!(
            "there is no kiln program for {architecture} workers: give one with --executor ...,binary={architecture}=FILE"
        ));
    }
    let path = given.map_or(Path::new(OWN), PathBuf::as_path);
    let failed = |error: io::Error| format!("could not read {}: {error}", path.display());
    let mut file = File::open(path).map_err(failed)?;
    let elf = Elf::read(&mut file).map_err(failed)?;
    let Some(elf) = elf else {
        return Err(format!("{} is not an ELF program", path.display()));
    };
    if elf.architecture.is_some_and(|own| own != architecture) {
        return Err(format!(
            "{} is a program for {}, not for {architecture}",
            path.display(),
            elf.architecture.unwrap_or_default()
        ));
    }
    // What somebody gives by name may suit workers that have its libraries.
    if elf.needs_loader && given.is_none() {
        return Err(format!(
            "this kiln is linked dynamically, and workers have no libraries: give a static one with --executor ...,binary={architecture}=FILE"
        ));
    }
    let (sha256, size) = digest(&mut file).map_err(failed)?;
    Ok(Program {
        path: path.to_owned(),
        sha256,
        size,
    })
}

fn digest(file: &mut File) -> io::Result<([u8; 32], u64)> {
    file.seek(SeekFrom::Start(0))?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finalize().into(), size)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

/// What the header of a program says.
#[derive(PartialEq, Eq, Debug)]
struct Elf {
    architecture: Option<&'static str>,
    needs_loader: bool,
}

impl Elf {
    /// `None` when it is something else.
    fn read(file: &mut (impl Read + Seek)) -> io::Result<Option<Self>> {
        let mut header = [0_u8; 64];
        match file.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        if header[..4] != *b"\x7fELF" {
            return Ok(None);
        }
        let (wide, little) = (header[4] == 2, header[5] == 1);
        let number = |at: usize, bytes: usize| -> u64 {
            let part = header[at..at + bytes].iter();
            let join = |all, byte: &u8| (all << 8) | u64::from(*byte);
            if little {
                part.rev().fold(0, join)
            } else {
                part.fold(0, join)
            }
        };
        let architecture = match (number(18, 2), wide, little) {
            (3, _, _) => Some("386"),
            (20 | 21, true, false) => Some("ppc64"),
            (21, true, true) => Some("ppc64le"),
            (22, _, _) => Some("s390x"),
            (40, _, _) => Some("arm"),
            (62, _, _) => Some("amd64"),
            (183, _, _) => Some("arm64"),
            (243, true, _) => Some("riscv64"),
            (258, true, _) => Some("loong64"),
            _ => None,
        };
        let (at, size, count) = if wide {
            (number(32, 8), number(54, 2), number(56, 2))
        } else {
            (number(28, 4), number(42, 2), number(44, 2))
        };
        let mut needs_loader = false;
        for header in 0..count.min(MOST_HEADERS.into()) {
            let Some(place) = at.checked_add(header * size) else {
                break;
            };
            let mut kind = [0; 4];
            file.seek(SeekFrom::Start(place))?;
            if file.read_exact(&mut kind).is_err() {
                break;
            }
            let kind = if little {
                u32::from_le_bytes(kind)
            } else {
                u32::from_be_bytes(kind)
            };
            needs_loader |= kind == INTERPRETER;
        }
        Ok(Some(Self {
            architecture,
            needs_loader,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::EndpointSettings;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// A program header table of one entry behind the header.
    fn program(machine: u16, kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.resize(120, 0);
        bytes
    }

    #[test]
    fn a_program_says_what_it_is_for() {
        let read = |bytes: Vec<u8>| Elf::read(&mut Cursor::new(bytes)).unwrap();
        let wanted = |architecture, needs_loader| {
            Some(Elf {
                architecture: Some(architecture),
                needs_loader,
            })
        };
        assert_eq!(read(program(62, 1)), wanted("amd64", false));
        assert_eq!(read(program(183, 3)), wanted("arm64", true));
        assert_eq!(read(b"#!/bin/sh\n".to_vec()), None);
    }

    #[test]
    fn only_a_program_that_fits_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, bytes: Vec<u8>| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let mut settings = ExecutorSettings::new(EndpointSettings::default());
        let foreign = if Platform::host().architecture == "arm64" {
            ("amd64", 62)
        } else {
            ("arm64", 183)
        };
        let said = |settings: &ExecutorSettings| {
            let found = Programs::default().of(settings, foreign.0);
            found.as_ref().clone()
        };
        let missing = said(&settings).unwrap_err();
        assert!(missing.contains(&format!("binary={}=FILE", foreign.0)));
        let name = foreign.0.to_owned();
        let wrong = place("wrong", program(22, 1));
        settings.binaries.insert(name.clone(), wrong);
        assert!(
            said(&settings)
                .unwrap_err()
                .contains("is a program for s390x")
        );
        let script = place("script", vec![b'#'; 200]);
        settings.binaries.insert(name.clone(), script);
        assert!(said(&settings).unwrap_err().contains("not an ELF program"));
        let right = place("right", program(foreign.1, 1));
        settings.binaries.insert(name, right);
        let found = said(&settings).unwrap();
        assert_eq!(found.size, 120);
        let expected: [u8; 32] = Sha256::digest(program(foreign.1, 1)).into();
        assert_eq!(found.sha256, expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let magic = b"\x7fELF";
            for (byte, wanted) in bytes.iter_mut().zip(magic) {
                *byte = *wanted;
            }
            let _ = Elf::read(&mut Cursor::new(bytes));
        }
    }
}
