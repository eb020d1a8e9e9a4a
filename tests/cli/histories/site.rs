//! The program, and the folders and the registry of one history. What is built, and whether it is right, is not said here.

use super::At;
use super::kinds::Kind;
use super::world::World;
use crate::caches;
use crate::support::{Run, program, with_busybox};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::{DockerRegistry, RegistrySetup, Scratch};

use testkit::registry::FakeRegistry;

/// What a build gave.
#[derive(Clone, Debug)]
pub struct Built {
    /// The manifest's, or nothing where the build failed.
    pub digest: Option<String>,
    /// Steps that ran.
    pub ran: Vec<String>,
    error: String,
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.digest {
            Some(digest) => write!(f, "gave {digest}, and ran {:?}", self.ran),
            None => write!(f, "failed: {}", self.error),
        }
    }
}

enum Registry {
    Fake(FakeRegistry),
    Docker(DockerRegistry),
}

/// Where a history takes place.
pub struct Site {
    scratch: Scratch,
    registry: Option<Registry>,
}

impl Site {
    /// With a registry if the states ask for one: for a part of them a real one, where it is installed.
    pub fn new(states: &[World]) -> Self {
        let wanted = states[0].kinds.contains(&Kind::Caches);
        let real = states[0].secret.is_multiple_of(4);
        let registry = wanted.then(|| {
            real.then(|| DockerRegistry::start(&RegistrySetup::default()))
                .flatten()
                .map_or_else(|| Registry::Fake(FakeRegistry::start()), Registry::Docker)
        });
        Self {
            scratch: Scratch::new(),
            registry,
        }
    }

    /// A path of the history's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn resolved(&self, flag: &str) -> String {
        let host = self.registry.as_ref().map(|registry| match registry {
            Registry::Fake(registry) => registry.host(),
            Registry::Docker(registry) => registry.host(),
        });
        flag.replace("{caches}", &self.path("caches").display().to_string())
            .replace("{registry}", &host.unwrap_or_default())
    }
}

/// Steps that ran, but for reading what is built.
fn ran(run: &Run) -> Vec<String> {
    let mut ran = caches::ran(run);
    ran.retain(|name| !name.starts_with("[internal]"));
    ran
}

/// What is done with which program.
pub struct Runner {
    binary: PathBuf,
    builds: AtomicUsize,
    failed: AtomicUsize,
}

impl fmt::Display for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [builds, failed] =
            [&self.builds, &self.failed].map(|count| count.load(Ordering::Relaxed));
        write!(f, "{builds} builds ({failed} refused)")
    }
}

impl Runner {
    /// Nothing is built yet.
    pub fn new(binary: PathBuf) -> Self {
        Self {
            binary,
            builds: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
        }
    }

    /// Runs the program on a store.
    pub fn kiln(&self, store: &Path, args: &[String]) -> Output {
        let mut command = program(&self.binary);
        // Times are in no identity: with the lowest epoch they are all the same.
        command.env("SOURCE_DATE_EPOCH", "0");
        command.arg("--root").arg(store).args(args);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked at"), "{stderr}");
        output
    }

    /// What a build of a state has on every machine.
    pub fn arguments(&self, site: &Site, at: At, world: &World) -> Vec<String> {
        let mut args: Vec<String> = ["build", "--progress", "plain"].map(str::to_owned).into();
        args.extend(with_busybox());
        for (name, value) in &world.args {
            args.extend(["--build-arg".to_owned(), format!("{name}={value}")]);
        }
        if let Some(target) = world.target {
            args.extend(["--target".to_owned(), format!("s{target}")]);
        }
        if let Some(platforms) = &world.platforms {
            args.extend(["--platform".to_owned(), platforms.clone()]);
        }
        if world.kinds.contains(&Kind::Git) {
            args.push("--context-mode=git".to_owned());
        }
        if world.kinds.contains(&Kind::Mounts) {
            let file = site.path(&format!("{}.secret", at.0));
            std::fs::write(&file, format!("{} {}", at.0, world.secret)).unwrap();
            args.push(format!("--secret=id=s,src={}", file.display()));
        }
        args.push(site.path(at.1).display().to_string());
        args
    }

    /// Builds a state.
    pub fn build(&self, site: &Site, at: At, world: &World, flags: &[String]) -> Built {
        let mut args = self.arguments(site, at, world);
        let metadata = site.path(&format!("{}.metadata", at.0));
        args.extend(["--metadata-file".to_owned(), metadata.display().to_string()]);
        args.extend(flags.iter().map(|flag| site.resolved(flag)));
        let output = self.kiln(&site.path(at.0), &args);
        self.builds.fetch_add(1, Ordering::Relaxed);
        let run = Run {
            status: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        let mut built = Built {
            digest: None,
            ran: ran(&run),
            error: String::new(),
        };
        if run.status == 0 {
            let text = std::fs::read(&metadata).unwrap();
            let metadata: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let digest = metadata["containerimage.digest"].as_str().unwrap();
            built.digest = Some(digest.to_owned());
            return built;
        }
        let shown = || format!("{}\n{args:?}\n{}", world.shown(), run.stderr);
        assert_eq!(run.status, 1, "{}", shown());
        self.failed.fetch_add(1, Ordering::Relaxed);
        let lines = run.stderr.lines();
        let mut errors = lines.filter(|line| line.to_lowercase().starts_with("error"));
        built.error = errors.next().unwrap_or_default().to_owned();
        if std::env::var_os("KILN_HISTORIES_REFUSALS").is_some() {
            eprintln!("refused: {}", built.error);
        }
        built
    }
}
