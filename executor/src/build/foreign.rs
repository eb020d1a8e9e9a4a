//! Commands of other platforms: which of them the machine runs, and what it misses to run the rest.
//!
//! It registers no handlers and refuses nothing beforehand: an image may say one platform and hold programs of another.

use planner::platform::Platform;
use sandbox::Exit;
use std::path::Path;

/// Where the kernel lists the handlers of foreign programs.
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";
/// Where an ELF header says the machine (`e_machine`).
const MACHINE: usize = 18;

/// Why a command of this platform could not be started here, where the platform is the reason.
pub(crate) fn explain(platform: &Platform, exit: Exit) -> Option<String> {
    // 126: the kernel refused the program. 127: its interpreter is not there.
    if !matches!(exit, Exit::Code(126 | 127)) {
        return None;
    }
    explain_on(&Platform::host(), platform, exit, Path::new(HANDLERS))
}

fn explain_on(host: &Platform, platform: &Platform, exit: Exit, handlers: &Path) -> Option<String> {
    if runs_on(host, platform) {
        return None;
    }
    let handler = handler(platform, handlers);
    let missing = match (exit, &handler) {
        (Exit::Code(127), Some(handler)) if !handler.fixed => format!(
            "its binfmt_misc handler {:?} looks for {} in the image: register it with the flag F (fix binary)",
            handler.name, handler.interpreter
        ),
        (Exit::Code(127), _) | (_, Some(_)) => return None,
        (_, None) => "binfmt_misc has no handler for them: register one, such as qemu's (Debian: qemu-user-static)".to_owned(),
    };
    Some(format!(
        "this machine is {host} and cannot run programs for {platform}: {missing}; or do the work in a stage \
         FROM --platform=$BUILDPLATFORM"
    ))
}

/// Whether the machine's processor runs the platform's programs.
fn runs_on(host: &Platform, platform: &Platform) -> bool {
    let (own, other) = (host.architecture.as_str(), platform.architecture.as_str());
    let family = matches!((own, other), ("amd64", "386") | ("arm64", "arm"));
    host.os == platform.os && (own == other || family)
}

/// A handler that is registered and enabled.
struct Handler {
    name: String,
    interpreter: String,
    /// The kernel holds the interpreter open: the image need not have it.
    fixed: bool,
}

fn handler(platform: &Platform, folder: &Path) -> Option<Handler> {
    let machine = machine(&platform.architecture)?;
    let entries = std::fs::read_dir(folder).ok()?;
    entries.flatten().find_map(|entry| {
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let magic = field("magic ")?;
        let of_machine = magic.get(2 * MACHINE..2 * MACHINE + 4)?;
        (text.starts_with("enabled") && of_machine == machine).then(|| Handler {
            name: entry.file_name().to_string_lossy().into_owned(),
            interpreter: field("interpreter ").unwrap_or_default().to_owned(),
            fixed: field("flags:").is_some_and(|flags| flags.contains('F')),
        })
    })
}

/// `e_machine` as its bytes stand in a file.
fn machine(architecture: &str) -> Option<&'static str> {
    Some(match architecture {
        "386" => "0300",
        "amd64" => "3e00",
        "arm" => "2800",
        "arm64" => "b700",
        "loong64" => "0201",
        "mips" | "mips64" => "0008",
        "mipsle" | "mips64le" => "0800",
        "ppc64" => "0015",
        "ppc64le" => "1500",
        "riscv64" => "f300",
        "s390x" => "0016",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::Scratch;

    const QEMU: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: @\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn told(host: &str, platform: &str, code: i32, handler: Option<&str>) -> Option<String> {
        let scratch = Scratch::new();
        scratch.write("status", "enabled\n").unwrap();
        if let Some(text) = handler {
            scratch.write("qemu-aarch64", text).unwrap();
        }
        let [host, platform] = [host, platform].map(|text| text.parse().unwrap());
        explain_on(&host, &platform, Exit::Code(code), scratch.path())
    }

    #[test]
    fn mp10_what_is_missing_to_run_foreign_programs() {
        let no_handler = "this machine is linux/amd64 and cannot run programs for linux/arm64: binfmt_misc has no handler";
        let text = told("linux/amd64", "linux/arm64", 126, None).unwrap();
        assert!(text.starts_with(no_handler), "{text}");
        assert!(text.ends_with("FROM --platform=$BUILDPLATFORM"), "{text}");
        let disabled = QEMU.replace("enabled", "disabled");
        assert!(told("linux/amd64", "linux/arm64", 126, Some(&disabled)).is_some());
        assert!(told("linux/amd64", "linux/riscv64", 126, Some(QEMU)).is_some());
        let fixed = QEMU.replace('@', "OCF");
        for code in [126, 127] {
            assert_eq!(told("linux/amd64", "linux/arm64", code, Some(&fixed)), None);
        }
        let text = told("linux/amd64", "linux/arm64", 127, Some(QEMU)).unwrap();
        assert!(
            text.contains("\"qemu-aarch64\" looks for /usr/bin/qemu-aarch64 in the image"),
            "{text}"
        );
        assert_eq!(told("linux/amd64", "linux/arm64", 127, None), None);
        for (host, platform) in [
            ("linux/amd64", "linux/amd64/v3"),
            ("linux/amd64", "linux/386"),
            ("linux/arm64", "linux/arm/v6"),
        ] {
            assert_eq!(told(host, platform, 126, None), None, "{host} {platform}");
        }
    }
}
