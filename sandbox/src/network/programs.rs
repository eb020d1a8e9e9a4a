//! Finds pasta and slirp4netns. Starts nothing.

use super::{NetworkOptions, NetworkProgram};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where programs are when nobody says.
const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The programs that may be started, best first, and what to say when there is none.
pub(super) fn find(options: &NetworkOptions) -> (Vec<(NetworkProgram, PathBuf)>, String) {
    let wanted: &[NetworkProgram] = match &options.program {
        Some(program) => std::slice::from_ref(program),
        None => &[NetworkProgram::Pasta, NetworkProgram::Slirp4netns],
    };
    let path = if options.search_path.is_empty() {
        USUAL
    } else {
        &options.search_path
    };
    let mut unsafe_place = None;
    let mut found = Vec::new();
    for &program in wanted {
        let places = std::env::split_paths(path).map(|folder| folder.join(program.name()));
        for place in places.filter(|place| place.is_absolute() && is_program(place)) {
            if is_open_to_all(&place) {
                unsafe_place.get_or_insert(place);
                continue;
            }
            found.push((program, place));
            break;
        }
    }
    let names: Vec<String> = wanted
        .iter()
        .map(|program| format!("{} (package {})", program.name(), program.package()))
        .collect();
    let mut missing = match names.as_slice() {
        [one] => format!("{one} is not installed"),
        _ => format!("neither {} is installed", names.join(" nor ")),
    };
    if let Some(place) = unsafe_place {
        missing = format!(
            "{missing} in a folder that only its owner may write to, as {} is not",
            place.display()
        );
    }
    (found, missing)
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Whether anybody could have put it there.
fn is_open_to_all(path: &Path) -> bool {
    let Ok(real) = std::fs::canonicalize(path) else {
        return true;
    };
    let folders = [path.parent(), real.parent(), Some(real.as_path())];
    folders.into_iter().flatten().any(|place| {
        place
            .metadata()
            .is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path, mode: u32, program: &str) -> String {
        std::fs::create_dir_all(folder).unwrap();
        let path = folder.join(program);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).unwrap();
        folder.to_str().unwrap().to_owned()
    }

    #[test]
    fn programs_are_found_where_not_everyone_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let open = place(&folder.path().join("open"), 0o777, "pasta");
        let sticky = place(&folder.path().join("sticky"), 0o1777, "slirp4netns");
        let mine = place(&folder.path().join("mine"), 0o755, "slirp4netns");
        let names = |path: String, program| {
            let options = NetworkOptions {
                search_path: path,
                program,
                host_access: false,
            };
            let (found, missing) = find(&options);
            let found: Vec<_> = found
                .into_iter()
                .map(|(_, path)| path.to_str().unwrap().to_owned())
                .collect();
            (found, missing)
        };
        let (found, _) = names(format!("{open}:{sticky}:.::{mine}"), None);
        assert_eq!(found, [format!("{mine}/slirp4netns")]);
        let (found, missing) = names(format!("{open}:{mine}"), Some(NetworkProgram::Pasta));
        assert_eq!(found, [""; 0]);
        assert_eq!(
            missing,
            format!(
                "pasta (package passt) is not installed in a folder that only its owner may write to, as {open}/pasta is not"
            )
        );
        let (_, missing) = names("/nowhere".to_owned(), None);
        assert_eq!(
            missing,
            "neither pasta (package passt) nor slirp4netns (package slirp4netns) is installed"
        );
    }
}
