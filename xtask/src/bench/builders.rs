//! Who builds: Kiln, docker without and with BuildKit, buildah; and umoci, which makes layers without a Dockerfile. Each
//! keeps its images in the work folder.

use super::place::{Place, script_of};
use crate::peers::daemon::Daemon;
use crate::shell;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Clone, Debug)]
enum Kind<'a> {
    Kiln {
        program: &'a Path,
        store: &'static str,
    },
    Docker(&'a Daemon),
    BuildKit(&'a Daemon),
    Buildah,
    Umoci,
}

/// One of them.
#[derive(Clone)]
pub struct Builder<'a> {
    /// As shown.
    pub name: &'static str,
    /// Where it works.
    pub place: &'a Place,
    kind: Kind<'a>,
}

/// What a build is asked for beside its context.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Nothing is taken from the cache but the base.
    pub no_cache: bool,
    /// Layers stay as the builder keeps them; not made ready for a registry.
    pub cache_only: bool,
}

impl<'a> Builder<'a> {
    /// All that are here, Kiln first.
    pub fn all(place: &'a Place) -> Vec<Self> {
        let mut kinds = vec![(
            "kiln",
            Kind::Kiln {
                program: &place.kiln,
                store: "kiln",
            },
        )];
        if let Some(program) = &place.against {
            kinds.push((
                "kiln (--against)",
                Kind::Kiln {
                    program,
                    store: "kiln-against",
                },
            ));
        }
        kinds.extend(
            place
                .tools
                .host
                .as_ref()
                .map(|daemon| ("docker 20.10, no BuildKit", Kind::Docker(daemon))),
        );
        kinds.extend(
            place
                .tools
                .chroot
                .as_ref()
                .map(|daemon| ("docker buildx (BuildKit)", Kind::BuildKit(daemon))),
        );
        if place.tools.containers("buildah").is_some() {
            kinds.push(("buildah", Kind::Buildah));
        }
        if crate::peers::find("umoci").is_some() {
            kinds.push(("umoci (the layer alone)", Kind::Umoci));
        }
        kinds
            .into_iter()
            .map(|(name, kind)| Self { name, place, kind })
            .collect()
    }

    /// The one that works in its commands' place.
    pub fn daemon(&self) -> Option<&'a Daemon> {
        match self.kind {
            Kind::Docker(daemon) | Kind::BuildKit(daemon) => Some(daemon),
            _ => None,
        }
    }

    /// Whether it builds Dockerfiles, and pushes.
    pub fn builds(&self) -> bool {
        !matches!(self.kind, Kind::Umoci)
    }

    /// The command that builds a context of the work folder.
    pub fn build(&self, context: &str, how: How) -> Vec<Command> {
        let dir = self.place.path(context);
        let tag = format!("bench/{context}");
        let mut command = match &self.kind {
            Kind::Kiln { program, store } => {
                let mut command = self.place.kiln_of(program, store, &["build", "-q"]);
                command.args(["--network", "none", "-t", &tag]);
                command
            }
            Kind::Docker(daemon) => {
                let mut command = daemon.docker();
                command.env("DOCKER_BUILDKIT", "0").args([
                    "build",
                    "-q",
                    "--network",
                    "none",
                    "-t",
                    &tag,
                ]);
                command
            }
            Kind::BuildKit(daemon) => {
                let mut command = daemon.docker();
                command.args([
                    "buildx",
                    "build",
                    "-q",
                    "--provenance=false",
                    "--network=none",
                ]);
                let image = format!("type=image,name={tag}");
                command.args([
                    "-o",
                    if how.cache_only {
                        "type=cacheonly"
                    } else {
                        &image
                    },
                ]);
                command
            }
            Kind::Buildah => {
                let mut command = self.buildah();
                command.args([
                    "bud",
                    "-q",
                    "--layers",
                    "--tls-verify=false",
                    "--network",
                    "none",
                ]);
                command.args([
                    "--isolation",
                    "oci",
                    "--runtime",
                    "runc",
                    "--jobs",
                    "6",
                    "-t",
                    &tag,
                ]);
                if let Some(parent) = self.place.groups.parent("commands/buildah") {
                    command.arg("--cgroup-parent").arg(parent);
                }
                command
            }
            Kind::Umoci => return vec![self.umoci_insert(&dir)],
        };
        if how.no_cache {
            command.arg("--no-cache");
        }
        command.arg(match &self.kind {
            Kind::BuildKit(daemon) => daemon.seen(&dir),
            _ => dir,
        });
        vec![command]
    }

    /// Builds now, untimed.
    pub fn build_now(&self, context: &str, how: How) -> Result<(), String> {
        self.build(context, how)
            .iter_mut()
            .try_for_each(|command| shell::output(command).map(drop))
    }

    /// The commands that push what was built of a context under another name.
    pub fn push(&self, context: &str, reference: &str) -> Vec<Command> {
        let tag = format!("bench/{context}");
        let command = match &self.kind {
            Kind::Kiln { program, store } => {
                let mut command = self.place.kiln_of(program, store, &["push", "-q", &tag]);
                command.arg(reference);
                command
            }
            Kind::Docker(daemon) => {
                let (mut tagging, mut command) = (daemon.docker(), daemon.docker());
                tagging.args(["tag", &tag, reference]);
                command.args(["push", "-q", reference]);
                return vec![tagging, command];
            }
            Kind::BuildKit(daemon) => {
                let mut command = daemon.docker();
                command.args([
                    "buildx",
                    "build",
                    "-q",
                    "--provenance=false",
                    "--network=none",
                    "-o",
                ]);
                command.arg(format!("type=image,name={reference},push=true"));
                command.arg(daemon.seen(&self.place.path(context)));
                command
            }
            Kind::Buildah => {
                let mut command = self.buildah();
                command.args(["push", "-q", "--tls-verify=false", &tag]);
                command.arg(format!("docker://{reference}"));
                command
            }
            Kind::Umoci => return Vec::new(),
        };
        vec![command]
    }

    /// Forgets everything: images, layers, cache.
    pub fn clean(&self) -> Result<(), String> {
        match &self.kind {
            Kind::Kiln { store, .. } => self.place.remove(&format!("stores/{store}")),
            Kind::Docker(daemon) => {
                shell::output(daemon.docker().args(["system", "prune", "-af"])).map(drop)
            }
            Kind::BuildKit(daemon) => {
                shell::output(daemon.docker().args(["system", "prune", "-af"]))?;
                shell::output(daemon.docker().args(["buildx", "prune", "-af"])).map(drop)
            }
            Kind::Buildah => self.place.remove("containers"),
            Kind::Umoci => {
                self.place.remove("umoci")?;
                let layout = self.layout();
                let image = format!("{}:t", layout.display());
                shell::output(
                    Command::new("umoci")
                        .arg("init")
                        .arg("--layout")
                        .arg(&layout),
                )?;
                shell::output(Command::new("umoci").args(["new", "--image", &image])).map(drop)
            }
        }
    }

    fn layout(&self) -> PathBuf {
        self.place.path("umoci")
    }

    fn umoci_insert(&self, dir: &Path) -> Command {
        let mut command = Command::new("umoci");
        command.args([
            "insert",
            "--image",
            &format!("{}:t", self.layout().display()),
        ]);
        command.arg(dir).arg("/ctx");
        command
    }

    fn buildah(&self) -> Command {
        self.place
            .tools
            .containers("buildah")
            .unwrap_or_else(|| script_of("exit 77"))
    }
}
