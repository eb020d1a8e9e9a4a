//! The machine's own handlers of foreign programs, as the kernel lists them. Registers none.

use sandbox::Machine;
use std::path::Path;

/// A handler that is registered and enabled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Handler {
    pub(super) name: String,
    pub(super) interpreter: String,
    /// The kernel holds the interpreter open: the image need not have it.
    pub(super) fixed: bool,
}

impl Handler {
    pub(super) fn is_qemu(&self) -> bool {
        let path = Path::new(&self.interpreter);
        let of_qemu = |part: &std::ffi::OsStr| part.to_string_lossy().contains("qemu");
        path.iter().any(of_qemu)
    }
}

/// Whether the list can be read, so that what is not in it is not there.
pub(super) fn are_listed(folder: &Path) -> bool {
    std::fs::read(folder.join("status")).is_ok()
}

/// The handler of an architecture's programs. Those of n32 and the like have headers of their own.
pub(super) fn of(architecture: &str, folder: &Path) -> Option<Handler> {
    let machine = Machine::of(architecture)?;
    if !std::fs::read_to_string(folder.join("status")).is_ok_and(|text| text.trim() == "enabled") {
        return None;
    }
    let entries = std::fs::read_dir(folder).ok()?;
    entries.flatten().find_map(|entry| {
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let starts = bytes(field("magic ")?)?;
        let handles =
            field("offset ") == Some("0") && Machine::of_program(&starts) == Some(machine);
        (text.starts_with("enabled") && handles).then(|| Handler {
            name: entry.file_name().to_string_lossy().into_owned(),
            interpreter: field("interpreter ").unwrap_or_default().to_owned(),
            fixed: field("flags:").is_some_and(|flags| flags.contains('F')),
        })
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pair = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::Scratch;

    const QEMU: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: @\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn handlers_are_found_by_what_they_handle() {
        let found = |architecture: &str, status: &str, text: &str| {
            let scratch = Scratch::new();
            scratch.write("status", status).unwrap();
            scratch.write("register", "").unwrap();
            scratch.write("qemu-aarch64", text).unwrap();
            assert!(are_listed(scratch.path()));
            of(architecture, scratch.path())
        };
        let fixed = QEMU.replace('@', "OCF");
        let handler = found("arm64", "enabled\n", &fixed).unwrap();
        assert_eq!(
            handler,
            Handler {
                name: "qemu-aarch64".to_owned(),
                interpreter: "/usr/bin/qemu-aarch64".to_owned(),
                fixed: true
            }
        );
        assert!(handler.is_qemu());
        assert!(!found("arm64", "enabled\n", QEMU).unwrap().fixed);
        assert_eq!(found("arm64", "disabled\n", &fixed), None);
        let disabled = fixed.replacen("enabled", "disabled", 1);
        assert_eq!(found("arm64", "enabled\n", &disabled), None);
        assert_eq!(found("riscv64", "enabled\n", &fixed), None);
        assert_eq!(
            found("arm64", "enabled\n", "enabled\nextension .jar\n"),
            None
        );
        assert!(!are_listed(Path::new("/nowhere")));
    }
}
