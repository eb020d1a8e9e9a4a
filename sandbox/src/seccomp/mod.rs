//! The system call filter of a command: moby's default profile as a BPF program.
//!
//! Calls that are known and not allowed fail with EPERM, calls newer than the profile with ENOSYS, so that C libraries fall
//! back to what they know. Numbers are found by binary search, so that any call costs about ten instructions, and the
//! kernel caches the answers that do not depend on arguments.

mod bpf;
mod tables;

use bpf::Program;
use std::collections::BTreeMap;

/// Newest call of the profile: removexattrat (Linux 6.13). Numbers from 424 on are the same on every architecture.
const NEWEST: u32 = 466;

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Allow,
    /// Fails with this errno.
    Fail(i32),
    /// Allowed unless its first argument has one of these bits.
    WithoutBits(u32),
    /// Allowed when its first argument is one of these numbers.
    OneOf(&'static [u32]),
    /// Allowed unless its first argument is one of these numbers.
    NoneOf(&'static [u32]),
    /// The supervisor is asked; allowed where it is not.
    Notify(When),
}

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

/// CLONE_NEW* bits of clone(2): cgroup, uts, ipc, user, pid, net, and mount namespaces.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// Personalities of personality(2): Linux, 32-bit Linux, each with the old uname, and the question for the current one.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Address families that reach the kernel's crypto interface and the hypervisor: AF_ALG, AF_VSOCK.
const DENIED_FAMILIES: &[u32] = &[38, 40];

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter {
    instructions: Vec<libc::sock_filter>,
}

/// One architecture's calls, as the kernel numbers them.
struct Calls {
    audit_arch: u32,
    actions: BTreeMap<u32, Action>,
    /// Numbers within the known ones that no kernel has given out.
    unassigned: std::ops::Range<u32>,
}

impl Filter {
    /// The filter for a command with Docker's default capabilities.
    pub(crate) fn docker_default() -> Self {
        Self {
            instructions: compile(&[native(), compat()]),
        }
    }

    /// [`Filter::docker_default`] that asks a supervisor about calls which it would allow.
    #[allow(dead_code, reason = "supervisors choose it")]
    pub(crate) fn docker_default_with(watch: &Watch) -> Self {
        let mut calls = [native(), compat()];
        calls[0].ask(&watch.native);
        calls[1].ask(&watch.compat);
        Self {
            instructions: compile(&calls),
        }
    }

    pub(crate) fn instructions(&self) -> &[libc::sock_filter] {
        &self.instructions
    }
}

#[cfg(target_arch = "x86_64")]
fn native() -> Calls {
    let conditional = Conditional {
        clone: 56,
        socket: 41,
        personality: 135,
    };
    // 335 and 336 are the last of x86_64's own numbers.
    Calls {
        audit_arch: 0xc000_003e,
        actions: conditional.with(native_numbers()),
        unassigned: 337..424,
    }
}

#[cfg(target_arch = "aarch64")]
fn native() -> Calls {
    let conditional = Conditional {
        clone: 220,
        socket: 198,
        personality: 92,
    };
    Calls {
        audit_arch: 0xc000_00b7,
        actions: conditional.with(native_numbers()),
        unassigned: 295..424,
    }
}

fn native_numbers() -> impl Iterator<Item = u32> {
    let more = tables::NATIVE_MORE.iter().map(|(number, _)| *number);
    tables::NATIVE
        .iter()
        .chain(tables::NATIVE_OLD)
        .copied()
        .chain(more)
}

/// 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn compat() -> Calls {
    i386()
}

#[cfg(target_arch = "aarch64")]
fn compat() -> Calls {
    arm()
}

#[cfg(any(target_arch = "x86_64", test))]
fn i386() -> Calls {
    let conditional = Conditional {
        clone: 120,
        socket: 359,
        personality: 136,
    };
    let numbers = parse(tables::I386)
        .chain(parse(tables::TIME64))
        .map(|(_, number)| number);
    Calls {
        audit_arch: 0x4000_0003,
        actions: conditional.with(numbers),
        unassigned: 387..393,
    }
}

#[cfg(any(target_arch = "aarch64", test))]
fn arm() -> Calls {
    let conditional = Conditional {
        clone: 120,
        socket: 281,
        personality: 136,
    };
    let numbers = parse(tables::ARM)
        .chain(parse(tables::TIME64))
        .map(|(_, number)| number);
    Calls {
        audit_arch: 0x4000_0028,
        actions: conditional.with(numbers),
        unassigned: 0..0,
    }
}

/// `name=number` pairs.
fn parse(table: &'static str) -> impl Iterator<Item = (&'static str, u32)> {
    table.split_whitespace().map(|pair| {
        let (name, number) = pair
            .split_once('=')
            .expect("BUG: a pair of a table has no number");
        (
            name,
            number.parse().expect("BUG: a number of a table is none"),
        )
    })
}

/// Numbers of the calls whose arguments decide.
struct Conditional {
    clone: u32,
    socket: u32,
    personality: u32,
}

impl Conditional {
    fn with(&self, allowed: impl Iterator<Item = u32>) -> BTreeMap<u32, Action> {
        const CLONE3: u32 = 435;
        let recent = tables::RECENT.iter().map(|(number, _)| *number);
        let mut actions: BTreeMap<u32, Action> = allowed
            .chain(recent)
            .map(|number| (number, Action::Allow))
            .collect();
        actions.insert(self.clone, Action::WithoutBits(NEW_NAMESPACES));
        actions.insert(self.socket, Action::NoneOf(DENIED_FAMILIES));
        actions.insert(self.personality, Action::OneOf(PERSONALITIES));
        // Its flags are behind a pointer; C libraries use clone when it is missing.
        actions.insert(CLONE3, Action::Fail(libc::ENOSYS));
        actions
    }
}

impl Calls {
    /// Asks about calls where they are allowed.
    fn ask(&mut self, watch: &[(u32, When)]) {
        for (number, when) in watch {
            if let Some(action @ Action::Allow) = self.actions.get_mut(number) {
                *action = Action::Notify(*when);
            }
        }
    }

    /// All numbers as ranges of one action each, in order, from 0.
    fn ranges(&self) -> Vec<(u32, Action)> {
        let mut ranges: Vec<(u32, Action)> = Vec::new();
        let mut push = |start, action| {
            if ranges.last().is_none_or(|(_, last)| *last != action) {
                ranges.push((start, action));
            }
        };
        for number in 0..=NEWEST {
            let absent = if self.unassigned.contains(&number) {
                libc::ENOSYS
            } else {
                libc::EPERM
            };
            push(
                number,
                self.actions
                    .get(&number)
                    .copied()
                    .unwrap_or(Action::Fail(absent)),
            );
        }
        push(NEWEST + 1, Action::Fail(libc::ENOSYS));
        for (number, action) in self.actions.range(NEWEST + 1..) {
            push(*number, *action);
            if !self.actions.contains_key(&(number + 1)) {
                push(number + 1, Action::Fail(libc::ENOSYS));
            }
        }
        ranges
    }
}

/// One section per architecture; any other architecture ends the process, as there is no telling what its calls do.
fn compile(architectures: &[Calls]) -> Vec<libc::sock_filter> {
    let mut program = Program::default();
    program.load_arch();
    for calls in architectures {
        let section = search(&calls.ranges());
        program.skip_unless_equal(calls.audit_arch, section.len() + 1);
        program.load_number();
        program.append(section);
    }
    program.kill();
    program.into_instructions()
}

/// Binary search over ranges, with the number in the accumulator.
fn search(ranges: &[(u32, Action)]) -> Program {
    let mut program = Program::default();
    if let [(_, action)] = ranges {
        match *action {
            Action::Allow => program.allow(),
            Action::Fail(errno) => program.fail(errno),
            Action::WithoutBits(bits) => program.allow_without_bits(bits),
            Action::OneOf(numbers) => program.allow_one_of(numbers),
            Action::NoneOf(numbers) => program.allow_none_of(numbers),
            Action::Notify(When::Always) => program.notify(),
            Action::Notify(When::Bits { argument, bits }) => {
                program.notify_with_bits(argument, bits);
            }
            Action::Notify(When::Masked {
                argument,
                mask,
                values,
            }) => program.notify_masked(argument, mask, values),
        }
        return program;
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let below = search(below);
    program.skip_if_at_least(above[0].0, below.len());
    program.append(below);
    program.append(search(above));
    program
}

#[cfg(test)]
mod tests;
