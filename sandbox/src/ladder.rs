//! Decides how commands are isolated: the best that works here and that is asked for, and what kept it from being better.
//!
//! `full` and `nested` are the build's namespace with all others inside it; where a new `/proc` cannot be mounted there, it
//! is `nested`. `chroot` enters no namespace. Deciding tries what a command would need, and nothing else.

use crate::chroot;
use crate::fail::{Failure, Stage};
use crate::init;
use crate::mounts;
use crate::namespace::{self, Refusal};
use crate::notify;
use crate::probe::fixes;
use crate::root;
use crate::sys::{self, Forked, SingleThreaded};
use crate::wire::{Entered, Hello};
use crate::{IdMapping, Isolation, Mode};
use rustix::io::Errno;
use rustix::process::WaitOptions;
use rustix::thread::CapabilitySet;

/// Enters what [`Hello`] asks for.
pub(crate) fn enter(one: SingleThreaded, hello: &Hello) -> Entered {
    if hello.isolation == Isolation::Chroot || hello.none.is_some() {
        return without_namespaces(one, hello);
    }
    let failure = match namespace::enter(one, hello) {
        Ok(entered) => match probe_run(one) {
            Ok(lost) => return ready(one, hello, entered, lost),
            Err(failure) => failure,
        },
        Err(Refusal::NeedsSingle(reason)) => return Entered::NeedsSingle(reason),
        Err(Refusal::NoNamespace(failure)) => failure,
        Err(Refusal::Failed(failure)) => return Entered::Failed(failure),
    };
    let fixes = fixes::here().namespaces(failure.errno());
    let failure = failure.detail(fixes);
    match hello.isolation {
        Isolation::Auto if may_chroot() => Entered::NeedsChroot(failure),
        Isolation::Auto => Entered::Failed(failure.detail(format!(
            "commands run without namespaces only as root with {CHROOT_NEEDS}"
        ))),
        _ => Entered::Failed(failure),
    }
}

/// Capabilities for [`may_chroot`], in words.
pub(crate) const CHROOT_NEEDS: &str =
    "the capabilities CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID and SYS_CHROOT";

/// The version of Landlock that can keep processes apart and nothing else.
const APART: u32 = 6;
const NOT_APART: &str = "commands that run at the same time can look into each other's processes by the surrounding /proc (Linux 6.12 with Landlock keeps them apart; `--jobs 1` runs one at a time)";

fn ready(one: SingleThreaded, hello: &Hello, entered: namespace::Namespace, lost: Lost) -> Entered {
    let Lost {
        proc: lost,
        host_name,
    } = lost;
    let mode = match &lost {
        None => Mode::Full,
        Some(failure) if hello.isolation == Isolation::Full => {
            let asked = format!(
                "isolation `full` was asked for, `{}` would do",
                Mode::Nested
            );
            return Entered::Failed(failure.clone().detail(asked));
        }
        Some(_) => Mode::Nested,
    };
    let choice = match root::choose(&hello.stores, hello.root, mode, one) {
        Ok(choice) => choice,
        Err(failure) => return Entered::Failed(failure),
    };
    let mut notes = entered.notes;
    notes.extend(choice.note);
    if host_name {
        let fix = fixes::here().namespaces(Errno::PERM);
        let fix = if fix.is_empty() {
            fix
        } else {
            format!(" ({fix})")
        };
        notes.push(format!("commands have the host name of what is around the build, which may not be set here{fix}"));
    }
    if mode == Mode::Nested && !sys::landlock_version().is_ok_and(|version| version >= APART) {
        notes.push(NOT_APART.to_owned());
    }
    let mut owners = false;
    if let Some(reason) = entered.single {
        let answered = notify::probe(one);
        owners = answered.is_ok();
        notes.push(single_note(&reason, answered.err().as_ref()));
    }
    Entered::Ready {
        mapping: entered.mapping,
        owners,
        mode,
        root: choice.kind,
        lost,
        notes,
    }
}

/// What a single id means for a build, and what would give it more.
fn single_note(reason: &str, refused: Option<&Failure>) -> String {
    match refused {
        None => format!(
            "only one user id is available: owners and groups are recorded and kept in layers, but commands of \
             different users are not kept from each other's files: {reason}"
        ),
        Some(failure) => format!(
            "only one user id is available, and the owners that commands ask for are lost: all files of the build belong to \
             root, and `chown`, `USER`, groups and apt's own user do not work, since this host does not let Kiln {} ({}): \
             {reason}",
            failure.stage,
            failure.errno()
        ),
    }
}

/// What a root without namespaces needs of its capabilities to change its root and work on the files of others.
pub(crate) fn may_chroot() -> bool {
    namespace::is_root_with(
        CapabilitySet::SYS_CHROOT
            | CapabilitySet::CHOWN
            | CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::FOWNER
            | CapabilitySet::SETUID
            | CapabilitySet::SETGID,
    )
}

fn without_namespaces(one: SingleThreaded, hello: &Hello) -> Entered {
    if !may_chroot() {
        let failure = Failure::new("change the root without namespaces", Errno::PERM)
            .detail(format!("only root may, with {CHROOT_NEEDS}"));
        return Entered::Failed(failure);
    }
    let mut notes = match chroot::probe(hello.isolation, &hello.stores) {
        Ok(notes) => notes,
        Err(failure) => return Entered::Failed(failure),
    };
    let choice = match root::choose(&hello.stores, hello.root, Mode::Chroot, one) {
        Ok(choice) => choice,
        Err(failure) => return Entered::Failed(failure),
    };
    notes.extend(choice.note);
    Entered::Ready {
        mapping: if namespace::has_one_id() {
            IdMapping::Single
        } else {
            IdMapping::Host
        },
        owners: false,
        mode: Mode::Chroot,
        root: choice.kind,
        lost: hello.none.clone(),
        notes,
    }
}

/// What a process in namespaces of its own may not do.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// Mount a new `/proc`.
    pub(crate) proc: Option<Failure>,
    /// Set its host name, which profiles of containers forbid beside allowing the namespace.
    pub(crate) host_name: bool,
}

/// Added to the exit status, an errno, of the process that tries.
const NO_HOST_NAME: i32 = 128;

/// Starts a process as commands are and lets it try. An error is of the start, without which nothing goes.
pub(crate) fn probe_run(one: SingleThreaded) -> Result<Lost, Failure> {
    let stage = "start a process in new namespaces";
    match sys::clone_process(one, init::clone_flags(false)).stage(stage)? {
        Forked::Child => {
            let code = mounts::new_proc().map_or_else(|failure| failure.errno, |_| 0);
            let named = rustix::system::sethostname(b"build");
            sys::exit_now(code + if named.is_ok() { 0 } else { NO_HOST_NAME })
        }
        Forked::Parent { pid, .. } => {
            let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty()).stage(stage)?;
            match ended.and_then(|(_, status)| status.exit_status()) {
                Some(status) => Ok(Lost {
                    proc: match status % NO_HOST_NAME {
                        0 => None,
                        errno => Some(mounts::no_proc(Errno::from_raw_os_error(errno))),
                    },
                    host_name: status >= NO_HOST_NAME,
                }),
                None => Err(Failure::new(stage, Errno::CHILD)),
            }
        }
    }
}
