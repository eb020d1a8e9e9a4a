//! Finds fuse-overlayfs. Starts nothing.

use crate::fail::Failure;
use rustix::io::Errno;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const NAME: &str = "fuse-overlayfs";
/// Where programs are. The search path of whoever builds is not asked: the program has the rights of the build's root.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The program, where nobody but its owner could have put it.
pub(crate) fn find() -> Result<PathBuf, Failure> {
    find_in(&FOLDERS.map(Path::new))
}

fn find_in(folders: &[&Path]) -> Result<PathBuf, Failure> {
    let mut open = None;
    for place in folders.iter().map(|folder| folder.join(NAME)) {
        let Ok(metadata) = place.metadata() else {
            continue;
        };
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            continue;
        }
        if !is_open_to_all(&place) {
            return Ok(place);
        }
        open.get_or_insert(place);
    }
    let failure = Failure::new(format!("find {NAME}"), Errno::NOENT);
    Err(match open {
        Some(place) => failure.detail(format!("anybody may write to {}", place.display())),
        None => failure.detail(format!("install the package {NAME}")),
    })
}

fn is_open_to_all(path: &Path) -> bool {
    let Ok(real) = std::fs::canonicalize(path) else {
        return true;
    };
    let places = [path.parent(), real.parent(), Some(real.as_path())];
    places.into_iter().flatten().any(|place| {
        place
            .metadata()
            .map_or(true, |metadata| metadata.permissions().mode() & 0o002 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_anybody_may_write_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, mode| {
            let place = folder.path().join(name);
            std::fs::create_dir(&place).unwrap();
            let program = place.join(NAME);
            std::fs::write(&program, "").unwrap();
            std::fs::set_permissions(program, PermissionsExt::from_mode(0o755)).unwrap();
            std::fs::set_permissions(&place, PermissionsExt::from_mode(mode)).unwrap();
            place
        };
        let (open, sticky, mine) = (
            make("open", 0o777),
            make("sticky", 0o1777),
            make("mine", 0o755),
        );
        let found = find_in(&[&open, &sticky, &mine]).unwrap();
        assert_eq!(found, mine.join(NAME));
        let said = |folders: &[&Path]| find_in(folders).unwrap_err().detail.unwrap();
        let written = format!("anybody may write to {}/{NAME}", open.display());
        assert_eq!(said(&[&open, &sticky]), written);
        assert_eq!(
            said(&[Path::new("/nowhere")]),
            format!("install the package {NAME}")
        );
    }
}
