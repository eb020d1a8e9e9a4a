//! From decisions to classic BPF as seccomp runs it: instructions over `struct seccomp_data`, jumps forward only.
//!
//! Numbers are found by binary search, so that any call costs about ten instructions.

use super::policy::{Answer, Compare, Handler, Section, Test};
use libc::sock_filter;

/// Offsets in `struct seccomp_data`, in bytes.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Of the halves of an argument.
const LOW: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };
const HIGH: u32 = 4 - LOW;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// One section per architecture; calls of any other get the answer for foreign ones.
pub(super) fn compile(sections: &[Section], foreign: Answer) -> Vec<sock_filter> {
    let mut program = Program::default();
    program.push(LOAD, ARCH, 0, 0);
    for section in sections {
        let search = search(&section.ranges, section.wide);
        program.push(JUMP_IF_EQUAL, section.audit, 1, 0);
        program.jump(search.0.len() + 1);
        program.push(LOAD, NUMBER, 0, 0);
        program.append(search);
    }
    program.answer(foreign);
    program.0
}

/// A program under construction.
#[derive(Default)]
struct Program(Vec<sock_filter>);

impl Program {
    fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    fn answer(&mut self, answer: Answer) {
        self.push(RETURN, answer.0, 0, 0);
    }

    /// Skips so many instructions when the accumulator is at least a value.
    fn skip_if_at_least(&mut self, value: u32, skipped: usize) {
        if let Ok(near) = u8::try_from(skipped) {
            return self.push(JUMP_IF_AT_LEAST, value, near, 0);
        }
        // Conditional jumps reach 255 instructions.
        self.push(JUMP_IF_AT_LEAST, value, 0, 1);
        self.jump(skipped);
    }

    fn jump(&mut self, skipped: usize) {
        let skipped = u32::try_from(skipped).expect("BUG: a filter is longer than memory");
        self.push(JUMP, skipped, 0, 0);
    }

    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) {
        self.0.push(sock_filter { code, jt, jf, k });
    }
}

/// Binary search over ranges, with the number in the accumulator.
fn search(ranges: &[(u32, Handler)], wide: bool) -> Program {
    let mut program = Program::default();
    if let [(_, handler)] = ranges {
        handle(handler, wide, &mut program);
        return program;
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let first_above = above[0].0;
    let below = search(below, wide);
    program.skip_if_at_least(first_above, below.0.len());
    program.append(below);
    program.append(search(above, wide));
    program
}

fn handle(handler: &Handler, wide: bool, program: &mut Program) {
    for rule in &handler.rules {
        let steps: Vec<Vec<Step>> = rule.tests.iter().map(|test| steps(test, wide)).collect();
        let end: usize = steps.iter().map(Vec::len).sum();
        let (mut at, mut next) = (0, 0);
        for steps in steps {
            next += steps.len();
            for step in steps {
                at += 1;
                // The answer stands at `end`, the next rule behind it.
                let near = |to: To| {
                    let skipped = match to {
                        To::Next => 0,
                        To::Passed => next - at,
                        To::Failed => end + 1 - at,
                    };
                    u8::try_from(skipped).expect("BUG: a rule has more tests than a call arguments")
                };
                program.push(step.code, step.k, near(step.yes), near(step.no));
            }
        }
        program.answer(rule.answer);
    }
    program.answer(handler.otherwise);
}

/// Where a test goes on.
#[derive(Clone, Copy)]
enum To {
    Next,
    Passed,
    Failed,
}

/// An instruction whose jumps are not counted yet.
struct Step {
    code: u16,
    k: u32,
    yes: To,
    no: To,
}

impl Step {
    fn load(argument: u8, half: u32) -> Self {
        Self::plain(LOAD, ARGUMENTS + 8 * u32::from(argument) + half)
    }

    fn plain(code: u16, k: u32) -> Self {
        Self::jump(code, k, To::Next, To::Next)
    }

    fn jump(code: u16, k: u32, yes: To, no: To) -> Self {
        Self { code, k, yes, no }
    }
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// A test of the lower half, or of both, upper half first. Arguments of 32-bit programs have no upper half, and what the
/// test has there does not count.
fn steps(test: &Test, wide: bool) -> Vec<Step> {
    use To::{Failed, Next, Passed};
    let mut steps = Vec::new();
    let both = wide && !test.low;
    let (code, value, yes, no) = match test.compare {
        Compare::Equal(value) => (JUMP_IF_EQUAL, value, Passed, Failed),
        Compare::NotEqual(value) => (JUMP_IF_EQUAL, value, Failed, Passed),
        Compare::Greater(value) => (JUMP_IF_GREATER, value, Passed, Failed),
        Compare::LessOrEqual(value) => (JUMP_IF_GREATER, value, Failed, Passed),
        Compare::GreaterOrEqual(value) => (JUMP_IF_AT_LEAST, value, Passed, Failed),
        Compare::Less(value) => (JUMP_IF_AT_LEAST, value, Failed, Passed),
        Compare::Masked { mask, value } => {
            if both {
                steps.push(Step::load(test.argument, HIGH));
                steps.push(Step::plain(AND, high(mask)));
                steps.push(Step::jump(JUMP_IF_EQUAL, high(value), Next, Failed));
            }
            steps.push(Step::load(test.argument, LOW));
            steps.push(Step::plain(AND, low(mask)));
            steps.push(Step::jump(JUMP_IF_EQUAL, low(value), Passed, Failed));
            return steps;
        }
    };
    if both {
        steps.push(Step::load(test.argument, HIGH));
        if code == JUMP_IF_EQUAL {
            steps.push(Step::jump(JUMP_IF_EQUAL, high(value), Next, no));
        } else {
            steps.push(Step::jump(JUMP_IF_GREATER, high(value), yes, Next));
            steps.push(Step::jump(JUMP_IF_EQUAL, high(value), Next, no));
        }
    }
    steps.push(Step::load(test.argument, LOW));
    steps.push(Step::jump(code, low(value), yes, no));
    steps
}
