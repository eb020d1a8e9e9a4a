//! The servers that the suite knows, started on loopback and stopped with the value.

use std::path::Path;
use testkit::reapi::{self, BuildGrid, Buildbox, BuildboxSetup, Fault, Options, Staging, Worker};

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// buildbox-casd with buildbox-run.
    Buildbox,
    /// BuildGrid with workers of the project's own.
    BuildGrid,
    /// The project's own, for tests.
    Own,
}

impl Kind {
    /// By its name on the command line.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "buildbox" => Some(Self::Buildbox),
            "buildgrid" => Some(Self::BuildGrid),
            "own" => Some(Self::Own),
            _ => None,
        }
    }
}

/// A running server.
pub enum Server {
    /// See [`Kind::Buildbox`].
    Buildbox(Buildbox),
    /// See [`Kind::BuildGrid`].
    BuildGrid(Box<BuildGrid>),
    /// See [`Kind::Own`].
    Own(reapi::Server),
}

impl Server {
    /// Starts one with as many workers of one command each, and a folder of their secrets. `None`, said loudly, where it
    /// cannot be had.
    pub fn start(
        kind: Kind,
        workers: usize,
        fuse: bool,
        place: Option<&Path>,
        secrets: Option<&Path>,
    ) -> Option<Self> {
        let options = || Options {
            workers: (1..=workers)
                .map(|number| {
                    let isa = if cfg!(target_arch = "aarch64") {
                        "arm-a64"
                    } else {
                        "x86-64"
                    };
                    Worker::new(&format!("worker-{number}"), 1).isa(isa)
                })
                .collect(),
            cache_failed: true,
            environment: secrets
                .map(|it| ("KILN_WORKER_SECRETS".to_owned(), it.display().to_string()))
                .into_iter()
                .collect(),
            staging: Staging::CopyOnce,
            place: place.map(Path::to_owned),
            ..Options::default()
        };
        Some(match kind {
            Kind::Buildbox => Self::Buildbox(Buildbox::start(&BuildboxSetup {
                fuse,
                jobs: workers,
                runner_arguments: secrets
                    .map(|it| format!("--ro-bind-mount={}:/run/kiln/secrets", it.display()))
                    .into_iter()
                    .collect(),
                place: place.map(Path::to_owned),
                ..BuildboxSetup::default()
            })?),
            Kind::BuildGrid => Self::BuildGrid(Box::new(BuildGrid::start(options())?)),
            Kind::Own => Self::Own(reapi::Server::start(options())),
        })
    }

    /// As shown.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Buildbox(server) if server.fuse() => "buildbox, staging with FUSE",
            Self::Buildbox(_) => "buildbox, staging copies",
            Self::BuildGrid(_) => "BuildGrid",
            Self::Own(_) => "own",
        }
    }

    /// `grpc://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        match self {
            Self::Buildbox(server) => server.url(),
            Self::BuildGrid(server) => server.url(),
            Self::Own(server) => server.url(),
        }
    }

    /// How steps are asked for there.
    pub fn preset(&self) -> &'static str {
        match self {
            Self::Buildbox(_) => "buildbox",
            Self::BuildGrid(_) => "buildgrid",
            Self::Own(_) => "standard",
        }
    }

    /// Commands that run and what stages their roots, where that is known.
    pub fn children(&self) -> Option<usize> {
        match self {
            Self::Buildbox(server) => Some(server.children()),
            Self::BuildGrid(server) => usize::try_from(server.bot().counters().live_children).ok(),
            Self::Own(server) => usize::try_from(server.counters().live_children).ok(),
        }
    }

    /// The server's process, where it is one.
    pub fn id(&self) -> Option<u32> {
        match self {
            Self::Buildbox(server) => server.id(),
            _ => None,
        }
    }

    /// Forgets all blobs, and maybe not that it had them. Whether it can be made to.
    pub fn evict_all(&self) -> bool {
        match self {
            Self::Buildbox(server) => server.evict_all() > 0,
            Self::BuildGrid(server) => server.evict_all() > 0,
            Self::Own(server) => {
                let blobs = server.blobs();
                blobs.iter().filter(|blob| server.evict(blob)).count() > 0
            }
        }
    }

    /// Ends without notice and starts again with what it has kept.
    pub fn crash(&mut self) {
        match self {
            Self::Buildbox(server) => {
                server.crash();
                server.start_again();
            }
            Self::BuildGrid(server) => server.crash(),
            Self::Own(server) => server.restart(),
        }
    }

    /// The next worker whose command says a certain word dies, where workers can be made to.
    pub fn mark(&self, word: &str) {
        if let Self::Own(server) = self {
            server.inject_times(Fault::kill_worker(word), 1);
        }
    }

    /// Whoever runs something dies with it, where that is not done by [`Server::mark`].
    pub fn kill_workers(&mut self) {
        match self {
            Self::Buildbox(server) => server.kill_children(),
            Self::BuildGrid(server) => server.lose_workers(),
            Self::Own(_) => {}
        }
    }

    /// Commands that run now, on servers where a client learns that its action waits.
    pub fn running(&self) -> Option<usize> {
        match self {
            Self::Buildbox(_) => None,
            Self::BuildGrid(server) => Some(server.bot().running()),
            Self::Own(server) => {
                let all = server.executions();
                Some(all.iter().filter(|one| one.ended.is_none()).count())
            }
        }
    }
}
