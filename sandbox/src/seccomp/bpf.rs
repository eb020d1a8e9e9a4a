//! Classic BPF as seccomp runs it: instructions over `struct seccomp_data`, jumps forward only.

use libc::sock_filter;

/// Offsets in `struct seccomp_data`, in bytes.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// Lower half of the first argument, which is all the kernel looks at in the calls checked here.
const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") {
    16
} else {
    20
};
/// From one argument to the next.
const ARGUMENT: u32 = 8;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;
const AND: u16 = 0x54;

const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const ALLOW: u32 = 0x7fff_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;

/// A program under construction.
#[derive(Default)]
pub(super) struct Program(Vec<sock_filter>);

impl Program {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub(super) fn into_instructions(self) -> Vec<sock_filter> {
        self.0
    }

    pub(super) fn load_arch(&mut self) {
        self.push(LOAD, ARCH, 0, 0);
    }

    pub(super) fn load_number(&mut self) {
        self.push(LOAD, NUMBER, 0, 0);
    }

    pub(super) fn kill(&mut self) {
        self.push(RETURN, KILL_PROCESS, 0, 0);
    }

    pub(super) fn allow(&mut self) {
        self.push(RETURN, ALLOW, 0, 0);
    }

    pub(super) fn fail(&mut self, errno: i32) {
        self.push(RETURN, ERRNO | errno.cast_unsigned(), 0, 0);
    }

    /// Skips so many instructions unless the accumulator is a value.
    pub(super) fn skip_unless_equal(&mut self, value: u32, skipped: usize) {
        self.push(JUMP_IF_EQUAL, value, 1, 0);
        self.jump(skipped);
    }

    /// Skips so many instructions when the accumulator is at least a value.
    pub(super) fn skip_if_at_least(&mut self, value: u32, skipped: usize) {
        if let Ok(near) = u8::try_from(skipped) {
            return self.push(JUMP_IF_AT_LEAST, value, near, 0);
        }
        // Conditional jumps reach 255 instructions.
        self.push(JUMP_IF_AT_LEAST, value, 0, 1);
        self.jump(skipped);
    }

    pub(super) fn allow_without_bits(&mut self, bits: u32) {
        self.push(LOAD, FIRST_ARGUMENT, 0, 0);
        self.push(JUMP_IF_BITS, bits, 1, 0);
        self.allow();
        self.fail(libc::EPERM);
    }

    pub(super) fn allow_one_of(&mut self, values: &[u32]) {
        self.jump_to_second_of_two_if_in(values);
        self.fail(libc::EPERM);
        self.allow();
    }

    pub(super) fn allow_none_of(&mut self, values: &[u32]) {
        self.jump_to_second_of_two_if_in(values);
        self.allow();
        self.fail(libc::EPERM);
    }

    pub(super) fn notify(&mut self) {
        self.push(RETURN, USER_NOTIF, 0, 0);
    }

    /// Asks the supervisor when an argument has one of these bits.
    pub(super) fn notify_with_bits(&mut self, argument: u8, bits: u32) {
        self.load_argument(argument);
        self.push(JUMP_IF_BITS, bits, 0, 1);
        self.notify();
        self.allow();
    }

    /// Asks the supervisor when the bits of a mask have one of these values in an argument.
    pub(super) fn notify_masked(&mut self, argument: u8, mask: u32, values: &[u32]) {
        self.load_argument(argument);
        self.push(AND, mask, 0, 0);
        self.jump_to_second_of_two(values);
        self.allow();
        self.notify();
    }

    fn load_argument(&mut self, argument: u8) {
        let offset = FIRST_ARGUMENT + ARGUMENT * u32::from(argument);
        self.push(LOAD, offset, 0, 0);
    }

    fn jump_to_second_of_two_if_in(&mut self, values: &[u32]) {
        self.load_argument(0);
        self.jump_to_second_of_two(values);
    }

    fn jump_to_second_of_two(&mut self, values: &[u32]) {
        for (left, value) in (0..values.len()).rev().zip(values) {
            let near = u8::try_from(left + 1).expect("BUG: a condition lists too many values");
            self.push(JUMP_IF_EQUAL, *value, near, 0);
        }
    }

    fn jump(&mut self, skipped: usize) {
        self.push(
            JUMP,
            u32::try_from(skipped).expect("BUG: a filter has at most 4096 instructions"),
            0,
            0,
        );
    }

    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) {
        self.0.push(sock_filter { code, jt, jf, k });
    }
}
