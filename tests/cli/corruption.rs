//! A damaged store: the next build makes the right image, or fails and names the file. Never a wrong image.
//!
//! `KILN_CORRUPTION_CASES` and `KILN_CORRUPTION_SEED` make it more.

use crate::support::Project;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders and files of a store, each as likely as the other to be hit, however many files it has.
const PARTS: &[&str] = &[
    "records",
    "identities",
    "refs",
    "blobs",
    "meta",
    "index",
    "tree",
    "stat",
    "mounts",
    "version",
    "gc",
    "sizes",
    "lock",
    "cost",
];

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if meta.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The files of a part of a store.
fn part(store: &Path, name: &str) -> Vec<PathBuf> {
    let in_layers = |file: &str| -> Vec<PathBuf> {
        let mut all = files(&store.join("layers"));
        all.retain(|path| {
            path.file_name().is_some_and(|name| name == file)
                && !path.components().any(|c| c.as_os_str() == "tree")
        });
        all
    };
    match name {
        "meta" => in_layers("meta.json"),
        "index" | "cost" => in_layers(name),
        "tree" => {
            let mut all = files(&store.join("layers"));
            all.retain(|path| path.components().any(|c| c.as_os_str() == "tree"));
            all
        }
        _ => files(&store.join(name)),
    }
}

/// Damages one file; says how. Bytes changed inside an unpacked tree are no case: see the guide on disk space.
fn damage(random: &mut Random, store: &Path) -> Option<String> {
    let name = PARTS[random.below(PARTS.len())];
    let all = part(store, name);
    if all.is_empty() {
        return None;
    }
    let path = &all[random.below(all.len())];
    let mut bytes = fs::read(path).unwrap();
    let way = if name == "tree" { 3 } else { random.below(5) };
    match way {
        0 | 1 if !bytes.is_empty() => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        2 if !bytes.is_empty() => bytes.truncate(random.below(bytes.len())),
        3 => {
            fs::remove_file(path).unwrap();
            return Some(format!("removed {}", path.display()));
        }
        _ => bytes.clear(),
    }
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
    fs::write(path, bytes).unwrap();
    Some(format!("way {way} on {}", path.display()))
}

fn project() -> Project {
    let project = Project::new(
        "FROM busybox AS made\n\
         RUN --mount=type=cache,target=/cache echo x >> /cache/seen && mkdir /made && echo made > /made/m && sleep 0.3\n\
         FROM busybox\n\
         COPY f /f\n\
         RUN echo one > /one\n\
         COPY --from=made /made /made\n\
         ARG N=1\n\
         RUN cat /f /one /made/m > /all && echo $N > /n\n",
    );
    project.write("f", "content of f\n".repeat(1000));
    project
}

fn build(project: &Project, store: &Path, (n, name): (u32, &str)) -> crate::support::Run {
    let arg = format!("N={n}");
    let output = format!("type=oci,dest={name}");
    let args = [
        "--build-arg",
        &arg,
        "--build-arg",
        "SOURCE_DATE_EPOCH=1700000000",
        "-o",
        &output,
        "-t",
        "x",
    ];
    let mut command = project.build_command(&args);
    command.arg("--root").arg(store);
    project.run(command)
}

#[test]
fn a_damaged_store_never_makes_a_wrong_image() {
    let cases = setting("KILN_CORRUPTION_CASES", 40);
    let mut random = Random(setting("KILN_CORRUPTION_SEED", 1));
    let project = project();
    let clean = project.path("clean");
    build(&project, &clean, (2, "two.tar")).ok();
    fs::remove_dir_all(&clean).unwrap();
    build(&project, &clean, (1, "one.tar")).ok();
    let mut command = project.command(&["--root", clean.to_str().unwrap(), "du"]);
    command.env("KILN_ISOLATION", "");
    project.run(command).ok();
    let wanted = [1, 2].map(|n| fs::read(project.path(["one.tar", "two.tar"][n - 1])).unwrap());
    let (mut right, mut told) = (0, 0);
    let store = project.path("hit");
    let mut wrong = Vec::new();
    while right + told < cases {
        let copied = Command::new("cp")
            .arg("-a")
            .arg(&clean)
            .arg(&store)
            .status();
        assert!(copied.unwrap().success());
        let hits: Vec<String> = (0..=random.below(3))
            .filter_map(|_| damage(&mut random, &store))
            .collect();
        // The same build again, or one that shares all steps but the last.
        let n = u32::try_from(1 + random.below(2)).unwrap();
        let run = build(&project, &store, (n, "hit.tar"));
        let made = fs::read(project.path("hit.tar"));
        if run.status == 0 {
            if made.unwrap() != wanted[n as usize - 1] {
                wrong.push(format!("a wrong image after {hits:?}:\n{}", run.stderr));
            }
            right += 1;
        } else {
            let names_it = run.stderr.contains(store.to_str().unwrap());
            if !names_it || made.is_ok() {
                wrong.push(format!("after {hits:?} (n={n}):\n{}", run.stderr));
            }
            told += 1;
        }
        let _ = fs::remove_file(project.path("hit.tar"));
        fs::remove_dir_all(&store).unwrap();
    }
    eprintln!(
        "{cases} cases: {right} right, {told} told what is damaged, {} wrong",
        wrong.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {cases}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(right > told, "most damage mends itself");
}

/// A store of another version is refused, and one of this version that lost its version says what to do.
#[test]
fn versions() {
    let project = Project::new("FROM scratch\nCOPY f /f\n");
    project.write("f", "x");
    project.build(&["-t", "x"]).ok();
    let version = project.store().join("version");
    fs::write(&version, "2\n").unwrap();
    project
        .build(&[])
        .fails(1, &["use a newer kiln or another --root"]);
    for text in ["0\n", "x", ""] {
        fs::write(&version, text).unwrap();
        project
            .build(&[])
            .fails(1, &[version.to_str().unwrap(), "write \"1\""]);
    }
    fs::write(&version, "1\n").unwrap();
    project.build(&["-t", "x"]).ok();
}
