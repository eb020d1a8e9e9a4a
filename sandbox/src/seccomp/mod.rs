//! The system call filter of a command: the default profile, or one in Docker's JSON, as a BPF program.
//!
//! The kernel caches the answers that do not depend on arguments. Loading a filter is not done here.

mod calls;
mod default;
mod emit;
mod json;
mod policy;

use crate::capability;
use crate::spec::{RunSpec, Seccomp, Security};
use calls::Arch;
use json::Place;
use policy::{Answer, Compare, Handlers, Policy, Test};
use rustix::thread::CapabilitySet;

/// Which calls of a number a supervisor is asked about. Arguments count from 0, and their lower halves are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "supervisors choose among them")]
pub(crate) enum When {
    /// All.
    Always,
    /// Those with one of these bits in an argument.
    Bits { argument: u8, bits: u32 },
    /// Those where the bits of the mask have one of these values in an argument.
    Masked {
        argument: u8,
        mask: u32,
        values: &'static [u32],
    },
}

/// The calls that a supervisor is asked about (seccomp_unotify(2)), by their numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    /// Of this machine's programs.
    pub(crate) native: Vec<(u32, When)>,
    /// Of its 32-bit programs.
    pub(crate) compat: Vec<(u32, When)>,
}

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter {
    instructions: Vec<libc::sock_filter>,
}

impl Filter {
    /// The filter for a command with Docker's default capabilities.
    #[cfg(test)]
    pub(crate) fn docker_default() -> Self {
        Self::docker_default_with(&Watch::default())
    }

    /// [`Filter::docker_default`] that asks a supervisor about calls which it would allow.
    #[cfg(test)]
    pub(crate) fn docker_default_with(watch: &Watch) -> Self {
        Self::of(
            &default::policy(Arch::NATIVE[0], capability::DEFAULT),
            watch,
        )
    }

    /// The filter that a command's settings ask for; `None` when nothing is forbidden or watched.
    fn new(security: &Security, watch: &Watch) -> Result<Option<Self>, String> {
        let capabilities = capability::of(security)?;
        let policy = match &security.seccomp {
            Seccomp::Default => Some(default::policy(Arch::NATIVE[0], capabilities)),
            Seccomp::Unconfined => None,
            Seccomp::Profile(text) => json::policy(text, place(capabilities))?,
        };
        Ok(match policy {
            Some(policy) => Some(Self::of(&policy, watch)),
            None => Self::nothing_but(watch),
        })
    }

    /// Allows everything, but asks a supervisor.
    pub(crate) fn nothing_but(watch: &Watch) -> Option<Self> {
        if watch.native.is_empty() && watch.compat.is_empty() {
            return None;
        }
        Some(Self::of(
            &Policy {
                architectures: Arch::NATIVE.to_vec(),
                rules: Vec::new(),
                default: Answer::ALLOW,
                newer: Answer::ALLOW,
                unassigned: None,
                foreign: Answer::ALLOW,
            },
            watch,
        ))
    }

    fn of(policy: &Policy, watch: &Watch) -> Self {
        let sections = policy.sections(|arch, handlers| match arch {
            Arch::X86_64 | Arch::Aarch64 => ask(handlers, &watch.native, policy.default),
            Arch::X86 | Arch::Arm => ask(handlers, &watch.compat, policy.default),
            Arch::X32 => {}
        });
        Self {
            instructions: emit::compile(&sections, policy.foreign),
        }
    }

    pub(crate) fn instructions(&self) -> &[libc::sock_filter] {
        &self.instructions
    }
}

/// Number of a call for programs of this machine, or for its 32-bit ones.
pub(crate) fn call_number(name: &str, compat: bool) -> Option<u32> {
    calls::number(name, Arch::NATIVE[usize::from(compat)])
}

/// Asks about calls where they are allowed.
fn ask(handlers: &mut Handlers, watch: &[(u32, When)], default: Answer) {
    for (number, when) in watch {
        let handler = handlers.entry(*number).or_insert_with(|| default.into());
        let test = |argument: u8, compare| Test {
            argument,
            compare,
            low: true,
        };
        match *when {
            When::Always => handler.ask(None),
            When::Bits { argument, bits } => {
                for bit in (0..32).map(|bit| u64::from(bits) & (1 << bit)) {
                    if bit != 0 {
                        let (mask, value) = (bit, bit);
                        handler.ask(Some(test(argument, Compare::Masked { mask, value })));
                    }
                }
            }
            When::Masked {
                argument,
                mask,
                values,
            } => {
                for value in values {
                    let (mask, value) = (u64::from(mask), u64::from(*value));
                    handler.ask(Some(test(argument, Compare::Masked { mask, value })));
                }
            }
        }
    }
}

fn place(capabilities: CapabilitySet) -> Place {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    Place {
        capabilities,
        kernel: json::kernel_version(&release).unwrap_or((u32::MAX, 0)),
    }
}

/// Whether a command can have these settings; otherwise what is wrong with them.
pub(crate) fn check(security: &Security) -> Result<(), String> {
    Filter::new(security, &Watch::default()).map(|_| ())
}

/// The filters of a build: each is compiled once.
#[derive(Debug)]
pub(crate) struct Filters {
    watch: Watch,
    compiled: Vec<(Security, Option<Filter>)>,
    /// For commands that nothing is forbidden.
    insecure: Option<Filter>,
}

impl Filters {
    /// With the filter for default settings. All of them ask a supervisor about the watched calls.
    pub(crate) fn new(watch: Watch) -> Self {
        let mut filters = Self {
            insecure: Filter::nothing_but(&watch),
            watch,
            compiled: Vec::new(),
        };
        filters.add(Security::default());
        filters
    }

    /// Compiles for more settings, which are checked already; others are left out.
    pub(crate) fn add(&mut self, security: Security) {
        if self.compiled.iter().any(|(known, _)| *known == security) {
            return;
        }
        if let Ok(filter) = Filter::new(&security, &self.watch) {
            self.compiled.push((security, filter));
        }
    }

    /// The filter of a command.
    ///
    /// # Errors
    /// No filter was made for its settings.
    pub(crate) fn of(&self, spec: &RunSpec) -> Result<Option<&Filter>, rustix::io::Errno> {
        if spec.insecure {
            return Ok(self.insecure.as_ref());
        }
        let found = self
            .compiled
            .iter()
            .find(|(known, _)| *known == spec.security);
        match found {
            Some((_, filter)) => Ok(filter.as_ref()),
            None => Err(rustix::io::Errno::INVAL),
        }
    }
}

#[cfg(test)]
mod tests;
