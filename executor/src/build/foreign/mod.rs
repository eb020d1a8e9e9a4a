//! Commands of other platforms: which of them the machine runs, what runs the others, and what is missing for the rest.
//!
//! An emulator is registered for the build alone where the kernel can do that, before the first command and for all
//! platforms of the plan, so that no command sees a different machine by coming first or last. Where it cannot, the
//! machine's own handlers count. What an image says of itself refuses nothing: its program decides.

mod handler;
mod program;
mod qemu;
mod time;

use super::Ui;
use crate::Error;
use crate::request::BuildRequest;
use handler::Handler;
use planner::plan::{Op, Plan, Step};
use planner::platform::Platform;
use planner::scheduler::StepEvent;
use sandbox::{Emulator, Exit, Machine, Mode, RunSpec, Sandbox};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;
use time::Span;

/// Where the kernel lists the machine's handlers of foreign programs.
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// What runs programs of an architecture.
#[derive(Clone, Debug)]
enum Way {
    /// An emulator that this build registers.
    Own(Emulator),
    /// The machine's handler.
    Host(Handler),
    /// Nothing that is known, and why. Inside a container the machine may have a handler that cannot be seen.
    Missing(String),
}

/// How a build's commands of other platforms are run, and how long that took.
#[derive(Debug)]
pub(crate) struct Emulation {
    host: Platform,
    /// By architecture.
    ways: BTreeMap<String, Way>,
    /// Why the build's emulators could not be registered, once that was tried.
    refused: OnceLock<Option<String>>,
    begun: Instant,
    spans: time::Spans,
}

/// A command of another platform.
#[derive(Debug)]
pub(crate) struct Foreign {
    platform: Platform,
    architecture: String,
    /// What runs it; `None` where nothing is known that could.
    by: Option<String>,
}

impl Emulation {
    /// For the commands of a plan.
    pub(crate) fn of(plan: &Plan, request: &BuildRequest, begun: Instant) -> Self {
        let host = Platform::host();
        let foreign =
            |step: &&Step| matches!(step.op, Op::Run(_)) && !runs_on(&host, &step.platform);
        let mut platforms: Vec<&Platform> = Vec::new();
        for step in plan.steps.iter().filter(foreign) {
            let known = |known: &&Platform| known.architecture == step.platform.architecture;
            if !platforms.iter().any(known) {
                platforms.push(&step.platform);
            }
        }
        let found = platforms.into_iter().map(|platform| {
            let own = qemu::find(platform, &request.search_path);
            let host = handler::of(&platform.architecture, Path::new(HANDLERS));
            (platform.architecture.clone(), own, host)
        });
        Self {
            ways: ways(found.collect()),
            host,
            refused: OnceLock::new(),
            begun,
            spans: time::Spans::default(),
        }
    }

    /// Registers the build's emulators, where it has any. Every command waits for it, so that all see the same machine.
    pub(crate) fn register(&self, sandbox: &Sandbox) {
        let emulators: Vec<Emulator> = self
            .ways
            .values()
            .filter_map(|way| match way {
                Way::Own(emulator) => Some(emulator.clone()),
                _ => None,
            })
            .collect();
        if emulators.is_empty() {
            return;
        }
        self.refused.get_or_init(|| {
            if sandbox.mode() == Mode::Chroot {
                return Some("commands have no user namespace here".to_owned());
            }
            let refused = sandbox.emulate(&emulators).err()?;
            let no_mount = matches!(&refused, sandbox::Error::Setup { stage, .. } if stage.starts_with("mount"));
            let refused = crate::error::chain(&Error::from(refused));
            if !no_mount {
                return Some(refused);
            }
            let kernel = rustix::system::uname();
            let release = kernel.release().to_string_lossy();
            Some(format!(
                "Linux {release} takes no handlers for one build, as 6.7 and newer do ({refused})"
            ))
        });
    }

    /// What a step needs beside the machine; `None` when it runs by itself, as far as can be told from outside.
    pub(crate) fn of_step(
        &self,
        step: &Step,
        made_for: impl FnOnce() -> Option<Machine>,
    ) -> Option<Foreign> {
        if runs_on(&self.host, &step.platform) {
            return None;
        }
        let made_for = made_for();
        if made_for.is_some_and(|machine| sandbox::runs_natively(machine.architecture)) {
            return None;
        }
        let known = made_for.map(|machine| machine.architecture.to_owned());
        let architecture = known
            .filter(|architecture| self.ways.contains_key(architecture))
            .unwrap_or_else(|| step.platform.architecture.clone());
        let by = self.by(&architecture);
        Some(Foreign {
            platform: step.platform.clone(),
            architecture,
            by,
        })
    }

    /// The name of what runs an architecture.
    fn by(&self, architecture: &str) -> Option<String> {
        let refused = self.refused.get().is_some_and(Option::is_some);
        match self.ways.get(architecture)? {
            Way::Own(_) if !refused => {
                Machine::of(architecture).map(|machine| format!("qemu-{}", machine.qemu))
            }
            Way::Host(handler) => Some(handler.name.clone()),
            Way::Own(_) => {
                handler::of(architecture, Path::new(HANDLERS)).map(|handler| handler.name)
            }
            Way::Missing(_) => None,
        }
    }

    /// Refuses a command that nothing here can run, where that is known.
    pub(crate) fn check(&self, foreign: &Foreign) -> Result<(), Error> {
        if foreign.by.is_some() || !handler::are_listed(Path::new(HANDLERS)) {
            return Ok(());
        }
        Err(self.error(foreign, self.missing(foreign)))
    }

    /// Why a command could not be started, where its platform is the reason.
    pub(crate) fn explain(&self, foreign: &Foreign, exit: Exit) -> Option<Error> {
        // 126: the kernel refused the program. 127: its interpreter is not there.
        let missing = match (exit, self.ways.get(&foreign.architecture)) {
            (Exit::Code(126), _) if foreign.by.is_none() => self.missing(foreign),
            (Exit::Code(127), Some(Way::Host(handler))) if !handler.fixed => format!(
                "its binfmt_misc handler {:?} looks for {} in the image: register it with the flag F (fix binary)",
                handler.name, handler.interpreter
            ),
            _ => return None,
        };
        Some(self.error(foreign, missing))
    }

    fn missing(&self, foreign: &Foreign) -> String {
        let refused = self.refused.get().and_then(Option::as_deref);
        match (self.ways.get(&foreign.architecture), refused) {
            (Some(Way::Own(emulator)), Some(refused)) => {
                format!(
                    "{refused}, and it has none of its own for them: {}",
                    by_hand(emulator)
                )
            }
            (Some(Way::Missing(reason)), _) => reason.clone(),
            _ => "nothing here is known to run them".to_owned(),
        }
    }

    fn error(&self, foreign: &Foreign, missing: String) -> Error {
        Error::Foreign {
            host: self.host.to_string(),
            platform: foreign.platform.to_string(),
            missing,
        }
    }

    /// Counts the time of a command that was emulated.
    pub(crate) fn ran(&self, foreign: &Foreign, step: &Step, began: Instant) {
        self.spans.add(Span {
            architecture: foreign.architecture.clone(),
            by: foreign.by.clone(),
            step: step.origin.name.clone(),
            began,
            ended: Instant::now(),
        });
    }

    /// What there is to say at the end of the build.
    pub(crate) fn tell(&self, ui: &dyn Ui) {
        for warning in self.spans.warnings(self.begun) {
            ui.warning(&warning);
        }
    }
}

impl Foreign {
    /// Told at the step.
    pub(crate) fn note(&self) -> Option<StepEvent> {
        let by = self.by.as_ref()?;
        let note = format!("emulated by {by} ({})", self.architecture);
        Some(StepEvent::Note(note))
    }
}

/// What the first program of a command is made for.
pub(crate) fn made_for(
    spec: &RunSpec,
    view: impl FnOnce() -> Result<crate::snapshot::View, Error>,
) -> Option<Machine> {
    program::made_for(spec, &view().ok()?)
}

/// Chooses for all architectures together: a binfmt_misc of the build's own hides the machine's.
fn ways(found: Vec<(String, Result<Emulator, String>, Option<Handler>)>) -> BTreeMap<String, Way> {
    let counts = |host: &Option<Handler>| host.as_ref().is_some_and(|handler| handler.fixed);
    // Other emulators than QEMU, such as Apple's, are there because they are better.
    let only_host = found.iter().any(|(_, own, host)| {
        counts(host) && (own.is_err() || host.as_ref().is_some_and(|host| !host.is_qemu()))
    });
    let choose = |(architecture, own, host)| {
        let way = match (own, host) {
            (Ok(emulator), _) if !only_host => Way::Own(emulator),
            (_, Some(host)) => Way::Host(host),
            (Ok(emulator), None) => Way::Missing(format!(
                "other platforms of this build need the machine's handlers, and it has none for them: {}",
                by_hand(&emulator)
            )),
            (Err(reason), None) => Way::Missing(reason),
        };
        (architecture, way)
    };
    found.into_iter().map(choose).collect()
}

/// How the machine's administrator registers an emulator for all.
fn by_hand(emulator: &Emulator) -> String {
    let line = emulator.registration().unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    format!(
        "root registers one by: mount -t binfmt_misc binfmt_misc {HANDLERS}; printf %s '{line}' > {HANDLERS}/register"
    )
}

/// Whether the machine's processor runs the platform's programs.
fn runs_on(host: &Platform, platform: &Platform) -> bool {
    host.os == platform.os
        && (host.architecture == platform.architecture
            || sandbox::runs_natively(&platform.architecture))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emulator(architecture: &str) -> Emulator {
        Emulator {
            architecture: architecture.to_owned(),
            interpreter: "/usr/bin/qemu".into(),
            keeps_name: true,
        }
    }

    fn handler(interpreter: &str, fixed: bool) -> Option<Handler> {
        Some(Handler {
            name: "foreign".to_owned(),
            interpreter: interpreter.to_owned(),
            fixed,
        })
    }

    #[test]
    fn mp13_the_builds_own_emulators_come_first_where_they_hide_nothing() {
        let missing = || Err("no QEMU".to_owned());
        let own = |architecture: &str| Ok(emulator(architecture));
        let qemu = || handler("/usr/bin/qemu-x", true);
        let shown = |found: &[(&str, Result<Emulator, String>, Option<Handler>)]| {
            let found = found
                .iter()
                .map(|(name, own, host)| ((*name).to_owned(), own.clone(), host.clone()));
            let ways = ways(found.collect());
            let word = |way: &Way| match way {
                Way::Own(_) => "own",
                Way::Host(_) => "host",
                Way::Missing(_) => "missing",
            };
            ways.values().map(word).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(&[("arm64", own("arm64"), None)]), "own");
        assert_eq!(shown(&[("arm64", own("arm64"), qemu())]), "own");
        assert_eq!(
            shown(&[("arm64", own("arm64"), handler("/run/rosetta", true))]),
            "host"
        );
        assert_eq!(shown(&[("arm64", missing(), qemu())]), "host");
        assert_eq!(shown(&[("arm64", missing(), None)]), "missing");
        // Of no use unless the image has it, and then of no harm.
        assert_eq!(
            shown(&[("arm64", missing(), handler("/usr/bin/qemu-x", false))]),
            "host"
        );
        let both = [("arm64", missing(), qemu()), ("s390x", own("s390x"), None)];
        assert_eq!(shown(&both), "host missing");
        let both = [("arm64", own("arm64"), qemu()), ("s390x", missing(), None)];
        assert_eq!(shown(&both), "own missing");
    }
}
