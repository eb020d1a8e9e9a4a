//! The same steps give the same layers however a RUN is isolated: as root, as users with and without subordinate ids,
//! without namespaces, with each kind of root file system, and in containers.

use crate::accounts::User;
use crate::support::{Project, able, is_root, program};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use testkit::{Containers, Place};

/// Builds all steps in one store and prints what became of each.
const SCRIPT: &str = include_str!("modes.sh");

/// Applets are symbolic links here. In a root that is a copy every hard link is a file of its own, and busybox has 268.
const BASE: &str = "\
FROM busybox AS links
RUN cd /bin && for name in *; do [ \"$name\" = busybox ] || ln -sf busybox \"$name\"; done
FROM scratch
COPY --from=links / /
";

/// Docker's capabilities, without namespaces.
const CAPABILITIES: &str = "-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,\
    +net_bind_service,+sys_chroot,+kill,+audit_write";

/// Containers, and the isolation that each is to give: no less, and no more is asked for.
const PLACES: [(&str, &str); 6] = [
    ("docker", "chroot"),
    ("docker-unconfined", "nested"),
    ("docker-unconfined-user", "nested"),
    ("docker-unconfined-tmpfs", "nested"),
    ("podman", "nested"),
    ("podman-unconfined", "nested"),
];

/// Steps that are refused there: fuse-overlayfs copies a lower file with several names up as one file.
const KNOWN: [(&str, &str); 1] = [("fuse-overlayfs", "09-hard-links")];

/// A way to build.
struct Mode<'a> {
    name: String,
    /// What stands before the command.
    prefix: Vec<String>,
    /// Flags of `kiln build`.
    flags: Vec<&'static str>,
    /// Whose store it is.
    user: u32,
    place: Option<(&'a Containers, Place)>,
    /// What the machine may lack, by the message that tells so.
    lacking: Option<&'static str>,
}

impl Mode<'_> {
    fn new(name: &str, flags: &[&'static str]) -> Self {
        Self {
            name: name.to_owned(),
            prefix: Vec::new(),
            flags: flags.to_vec(),
            user: 0,
            place: None,
            lacking: None,
        }
    }

    fn run(&self, project: &Project) -> Output {
        let folder = project.path(".").canonicalize().unwrap();
        let home = match self.place {
            Some(_) => PathBuf::from("/tmp"),
            None => folder.join(&self.name),
        };
        if self.place.is_none() {
            fs::create_dir(&home).unwrap();
            chown(&home, Some(self.user), Some(self.user)).unwrap();
        }
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut words = self.prefix.clone();
        words.extend([
            "/usr/bin/env".to_owned(),
            format!("HOME={}", home.display()),
            format!("KILN_ROOT={}", home.join("store").display()),
            "SOURCE_DATE_EPOCH=1700000000".to_owned(),
            "sh".to_owned(),
        ]);
        words.extend(["modes.sh", "kiln", "steps", "base"].map(|name| text(&folder.join(name))));
        words.extend(self.flags.iter().map(|flag| (*flag).to_owned()));
        if let Some((containers, place)) = self.place {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            return containers.run(place, &[&folder], &words).unwrap();
        }
        let mut command = program(Path::new(&words[0]));
        command.args(&words[1..]).current_dir(&home);
        command.output().unwrap()
    }
}

/// What became of each step: `layers: [...]` or `refused: ...`; and, where something was told, the isolation.
type Found = BTreeMap<String, String>;

fn read(output: &Output) -> Found {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| {
        let (step, result) = line.split_once(' ')?;
        Some((step.trim_end_matches(":latest"), result))
    });
    let isolated = |result: &str| result.starts_with("isolated: ");
    lines
        .map(|(step, result)| match isolated(result) {
            true => (format!("{step} (isolation)"), result.to_owned()),
            false => (step.to_owned(), result.to_owned()),
        })
        .collect()
}

/// The steps, a base, the program and the script where every user can read them.
fn prepared() -> Project {
    let project = Project::new(BASE);
    project.valid_layout("base", &[]);
    let from = testkit::workspace_root().join("testdata/steps");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(from)
        .arg(project.path("steps"))
        .status();
    assert!(copied.unwrap().success());
    fs::write(project.path("modes.sh"), SCRIPT).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_kiln"), project.path("kiln")).unwrap();
    fs::set_permissions(project.path("."), Permissions::from_mode(0o755)).unwrap();
    let opened = Command::new("chmod")
        .args(["-R", "a+rX"])
        .args([project.path("base"), project.path("steps")])
        .status();
    assert!(opened.unwrap().success());
    project
}

/// All ways that root has on this machine without a container.
fn modes_of_root() -> Vec<Mode<'static>> {
    let mut modes = Vec::new();
    for kind in ["copy", "overlay", "fuse-overlayfs", "reflink"] {
        let mut mode = Mode::new(kind, &["--isolation=full", "--sandbox-root", kind]);
        mode.lacking = Some("for the root of commands: ");
        modes.push(mode);
    }
    let mut chroot = Mode::new("chroot", &["--isolation=chroot"]);
    let bounding = format!("--bounding-set={CAPABILITIES}");
    chroot.prefix = ["/usr/bin/setpriv", &bounding, "--inh-caps=-all"]
        .map(str::to_owned)
        .to_vec();
    modes.push(chroot);
    modes
}

fn modes_of(users: &[User]) -> Vec<Mode<'static>> {
    let modes = users.iter().map(|user| {
        let mut mode = Mode::new(user.name, &["--isolation=full"]);
        mode.prefix = user.prefix();
        mode.user = user.id;
        mode
    });
    modes.collect()
}

fn modes_in(containers: &Containers) -> Vec<Mode<'_>> {
    let modes = PLACES.map(|(name, isolation)| {
        let place = Place::ALL.into_iter().find(|place| place.name == name);
        let flag = match isolation {
            "chroot" => "--isolation=chroot",
            _ => "--isolation=nested",
        };
        let mut mode = Mode::new(name, &[flag]);
        mode.place = Some((containers, place.unwrap()));
        mode
    });
    modes.into()
}

/// Builds in all modes, some at a time; what failed to be the same.
fn compare(project: &Project, modes: Vec<Mode<'_>>, expected: &Found) -> Vec<String> {
    let left = Mutex::new(modes);
    let wrong = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mode) = next else { return };
            let started = std::time::Instant::now();
            let output = mode.run(project);
            let found = differences(&mode, &output, expected);
            eprintln!("{}: {} ms", mode.name, started.elapsed().as_millis());
            wrong
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(found);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(work);
        }
    });
    wrong.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn differences(mode: &Mode<'_>, output: &Output, expected: &Found) -> Vec<String> {
    let found = read(output);
    if let Some(text) = mode.lacking
        && found.values().all(|result| result.contains(text))
        && let Some(said) = found.values().next()
    {
        eprintln!("SKIPPED: {} does not work here: {said}", mode.name);
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for (step, layers) in expected {
        let result = found.get(step);
        let is_known = KNOWN.contains(&(mode.name.as_str(), step.as_str()));
        let is_refused = result.is_some_and(|result| result.starts_with("refused: "));
        if result != Some(layers) && !(is_known && is_refused) {
            wrong.push(format!(
                "{} {step}: {result:?} instead of {layers}",
                mode.name
            ));
        }
    }
    if found.is_empty() {
        wrong.push(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    // What a step got is told, once.
    let isolation = mode.flags[0].trim_start_matches("--isolation=");
    for step in expected.keys().filter(|_| isolation != "full") {
        let told = found.get(&format!("{step} (isolation)"));
        let text = format!("isolation: {isolation}");
        if told.is_none_or(|told| told.matches(&text).count() != 1) {
            wrong.push(format!(
                "{} {step}: {text:?} is not told once: {told:?}",
                mode.name
            ));
        }
    }
    wrong
}

/// RU01: one step, one layer.
#[test]
fn ru01_thirty_steps_give_the_same_layers_in_every_mode() {
    if !able(is_root(), "root, to become other users") {
        return;
    }
    let project = prepared();
    let full = Mode::new("full", &["--isolation=full"]);
    let expected = read(&full.run(&project));
    assert_eq!(expected.len(), 30, "{expected:#?}");
    for (step, result) in &expected {
        assert!(result.starts_with("layers: [\"sha256:"), "{step} {result}");
    }

    let users: Vec<User> = [("kilnmode1", true), ("kilnmode2", false)]
        .into_iter()
        .filter_map(|(name, ranges)| User::new(name, ranges))
        .collect();
    able(users.len() == 2, "useradd and /etc/subuid");
    let containers = Containers::start();
    if let Err(reason) = &containers {
        able(false, reason);
    }
    let mut modes = modes_of_root();
    modes.extend(modes_of(&users));
    if let Ok(containers) = &containers {
        modes.extend(modes_in(containers));
    }
    let wrong = compare(&project, modes, &expected);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
