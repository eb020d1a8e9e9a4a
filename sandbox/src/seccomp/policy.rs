//! What a filter decides, before it is a program: rules by the names of calls, and their meaning by numbers.

use super::calls::{self, Arch, PRIVATE, X32_BIT};
use std::collections::BTreeMap;

/// What the kernel does with a call (`SECCOMP_RET_*` and its data).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answer(pub(super) u32);

impl Answer {
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    pub(super) const LOG: Self = Self(0x7ffc_0000);
    pub(super) const NOTIFY: Self = Self(0x7fc0_0000);
    pub(super) const TRAP: Self = Self(0x0003_0000);
    pub(super) const KILL_THREAD: Self = Self(0);
    pub(super) const KILL_PROCESS: Self = Self(0x8000_0000);
    pub(super) const ENOSYS: Self = Self::fail(libc::ENOSYS as u16);
    pub(super) const EPERM: Self = Self::fail(libc::EPERM as u16);

    /// The call fails with an errno.
    pub(super) const fn fail(errno: u16) -> Self {
        Self(0x0005_0000 | errno as u32)
    }

    /// A tracer is told this number; the call fails with ENOSYS without one.
    pub(super) const fn trace(data: u16) -> Self {
        Self(0x7ff0_0000 | data as u32)
    }
}

/// A comparison with an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Compare {
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Equal(u64),
    GreaterOrEqual(u64),
    Greater(u64),
    /// The bits of the mask have this value.
    Masked {
        mask: u64,
        value: u64,
    },
}

/// A condition on one argument, which counts from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Test {
    pub(super) argument: u8,
    pub(super) compare: Compare,
    /// Only the lower half counts, since the kernel looks at no more of this argument.
    pub(super) low: bool,
}

/// An answer for calls that pass all tests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rule {
    pub(super) tests: Vec<Test>,
    pub(super) answer: Answer,
}

/// What happens to the calls of one number: the first rule that fits decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Handler {
    pub(super) rules: Vec<Rule>,
    pub(super) otherwise: Answer,
}

impl From<Answer> for Handler {
    fn from(otherwise: Answer) -> Self {
        Self {
            rules: Vec::new(),
            otherwise,
        }
    }
}

impl Handler {
    /// Asks a supervisor where the call passes a test and would be allowed.
    pub(super) fn ask(&mut self, test: Option<Test>) {
        let ask = |tests: &[Test]| Rule {
            tests: tests.iter().copied().chain(test).collect(),
            answer: Answer::NOTIFY,
        };
        let mut rules = Vec::new();
        for rule in std::mem::take(&mut self.rules) {
            if rule.answer == Answer::ALLOW {
                rules.push(ask(&rule.tests));
            }
            rules.push(rule);
        }
        if self.otherwise == Answer::ALLOW {
            match test {
                Some(_) => rules.push(ask(&[])),
                None => self.otherwise = Answer::NOTIFY,
            }
        }
        self.rules = rules;
    }
}

/// Rules by the names of calls, and what holds beside them.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) architectures: Vec<Arch>,
    /// In order. A rule without tests decides for its call, whatever else is said of it, and the first of them wins. Names
    /// that an architecture does not have mean nothing on it.
    pub(super) rules: Vec<(String, Rule)>,
    pub(super) default: Answer,
    /// For calls newer than any that a rule names.
    pub(super) newer: Answer,
    /// For numbers below those that Linux has not given out; `None` is the default.
    pub(super) unassigned: Option<Answer>,
    /// For calls of architectures that are not listed.
    pub(super) foreign: Answer,
}

/// One value of `AUDIT_ARCH_*`: what its calls come to.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) audit: u32,
    pub(super) wide: bool,
    /// First numbers, ascending from 0, of ranges with one handler each.
    pub(super) ranges: Vec<(u32, Handler)>,
}

/// Calls of a section by number.
pub(super) type Handlers = BTreeMap<u32, Handler>;

impl Policy {
    /// The sections of all architectures; `change` may add to each one's handlers before they become ranges.
    pub(super) fn sections(&self, change: impl Fn(Arch, &mut Handlers)) -> Vec<Section> {
        let main = self.architectures.iter().filter(|arch| **arch != Arch::X32);
        main.map(|arch| self.section(*arch, &change)).collect()
    }

    fn section(&self, arch: Arch, change: &impl Fn(Arch, &mut Handlers)) -> Section {
        let mut ranges = Vec::new();
        self.push_ranges(arch, 0, change, &mut ranges);
        if arch == Arch::X86_64 {
            if self.architectures.contains(&Arch::X32) {
                self.push_ranges(Arch::X32, X32_BIT, change, &mut ranges);
            } else {
                let foreign = match self.foreign {
                    Answer::ALLOW => Answer::ALLOW,
                    _ => Answer::ENOSYS,
                };
                push(&mut ranges, X32_BIT, foreign.into());
            }
        }
        Section {
            audit: arch.audit(),
            wide: arch.is_wide(),
            ranges,
        }
    }

    fn push_ranges(
        &self,
        arch: Arch,
        first: u32,
        change: &impl Fn(Arch, &mut Handlers),
        ranges: &mut Vec<(u32, Handler)>,
    ) {
        let mut handlers = self.handlers(arch);
        let newest = handlers
            .keys()
            .filter(|number| **number & !X32_BIT < PRIVATE)
            .max()
            .map_or(0, |number| number & !X32_BIT);
        change(arch, &mut handlers);
        let mut assigned = vec![false; newest as usize + 1];
        for number in calls::numbers(arch) {
            if let Some(place) = assigned.get_mut(number as usize) {
                *place = true;
            }
        }
        for (number, assigned) in (0..).zip(assigned) {
            let absent = match self.unassigned {
                Some(answer) if !assigned => answer,
                _ => self.default,
            };
            let handler = handlers.remove(&(first + number));
            push(
                ranges,
                first + number,
                handler.unwrap_or_else(|| absent.into()),
            );
        }
        push(ranges, first + newest + 1, self.newer.into());
        let mut rest = handlers.into_iter().peekable();
        while let Some((number, handler)) = rest.next() {
            push(ranges, number, handler);
            if rest.peek().is_none_or(|(next, _)| *next != number + 1) {
                push(ranges, number + 1, self.newer.into());
            }
        }
    }

    fn handlers(&self, arch: Arch) -> Handlers {
        let mut handlers = Handlers::new();
        let mut decided = std::collections::BTreeSet::new();
        for (name, rule) in &self.rules {
            let Some(number) = calls::number(name, arch) else {
                continue;
            };
            if decided.contains(&number) {
                continue;
            }
            let handler = handlers
                .entry(number)
                .or_insert_with(|| self.default.into());
            if rule.tests.is_empty() {
                *handler = rule.answer.into();
                decided.insert(number);
            } else {
                handler.rules.push(rule.clone());
            }
        }
        handlers
    }
}

fn push(ranges: &mut Vec<(u32, Handler)>, start: u32, handler: Handler) {
    if ranges.last().is_none_or(|(_, last)| *last != handler) {
        ranges.push((start, handler));
    }
}
