//! Settings that are known to forbid what a sandbox needs, and how to change them.
//!
//! They are read from files that every kernel and container shows; what is not seen to forbid anything is not named.

use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Where the settings lie. `/` but in tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host<'a> {
    root: &'a Path,
}

/// The host that this process runs on.
pub(crate) fn here() -> Host<'static> {
    Host {
        root: Path::new("/"),
    }
}

impl Host<'_> {
    fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }

    fn is(&self, path: &str, value: &str) -> bool {
        self.text(path).is_some_and(|text| text.trim() == value)
    }

    /// Why namespaces are refused with this error. Empty when nothing is seen that would.
    pub(crate) fn namespaces(&self, errno: Errno) -> String {
        let mut fixes = Vec::new();
        let mut fix = |seen: bool, text: &str| {
            if seen {
                fixes.push(text.to_owned());
            }
        };
        fix(
            self.is("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            "AppArmor restricts user namespaces: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or a profile for this program with `userns,`",
        );
        fix(
            self.is("proc/sys/kernel/unprivileged_userns_clone", "0"),
            "user namespaces are off for users: `sysctl kernel.unprivileged_userns_clone=1`",
        );
        let none_left = errno == Errno::NOSPC;
        if self.is("proc/sys/user/max_user_namespaces", "0") {
            fix(
                true,
                "user namespaces are off: `sysctl user.max_user_namespaces=10000`",
            );
        } else if none_left {
            fix(
                true,
                "there are as many namespaces as the settings user.max_*_namespaces allow: raise them",
            );
        }
        fix(
            errno == Errno::USERS,
            "user namespaces are nested too deep (32 levels)",
        );
        fix(
            errno == Errno::INVAL || errno == Errno::NOSYS,
            "the kernel was built without some of the namespaces (CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS ...)",
        );
        if fixes.is_empty() && errno == Errno::PERM {
            fixes.extend(self.filtered());
            if self.is_chrooted() {
                fixes.push(
                    "this process stands in a chroot, where the kernel makes no user namespace"
                        .to_owned(),
                );
            }
        }
        fixes.join("; ")
    }

    /// A seccomp filter around this process, and how containers are started without it.
    fn filtered(&self) -> Option<String> {
        let status = self.text("proc/self/status")?;
        if !status.contains("\nSeccomp:\t2") {
            return None;
        }
        let mut text = "a seccomp filter is active".to_owned();
        let how = if self.is_kubernetes() {
            "give the pod `securityContext.seccompProfile.type: Unconfined`"
        } else {
            "start the container with `--security-opt seccomp=unconfined`"
        };
        let where_from = if self.is_container() {
            ": "
        } else {
            ", as in a container: "
        };
        let _ = write!(text, "{where_from}{how}");
        Some(text)
    }

    /// Why a program that should map ids may not, though it is installed. Empty when nothing is seen.
    pub(crate) fn mapper(&self, program: &Path) -> String {
        if self.status("NoNewPrivs").is_some_and(|value| value == 1) {
            return "no program may gain rights here (no_new_privs): start the container without `no-new-privileges`, the pod with `allowPrivilegeEscalation: true`".to_owned();
        }
        let mut space = [0u8; 64];
        let has_capability = rustix::fs::getxattr(program, "security.capability", &mut space)
            .is_ok_and(|length| length > 0);
        let is_set_uid = std::fs::metadata(program).is_ok_and(|metadata| {
            metadata.permissions().mode() & 0o4000 != 0 && metadata.uid() == 0
        });
        let bounds = self.status("CapBnd").unwrap_or(u64::MAX);
        let may_administer = bounds & CapabilitySet::SYS_ADMIN.bits() != 0;
        if has_capability || is_set_uid && may_administer {
            return String::new();
        }
        // Some versions ask for CAP_SYS_ADMIN when they are set-uid, and act as their caller when they are not.
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let capability = if name == "newgidmap" {
            "cap_setgid"
        } else {
            "cap_setuid"
        };
        let why = if is_set_uid {
            "is set-uid, which is not enough without CAP_SYS_ADMIN in a container"
        } else {
            "has no rights of its own"
        };
        let shown = program.display();
        format!("{shown} {why}: `setcap {capability}+ep {shown}` in its image")
    }

    /// Why root may not map its own id. Empty when nothing is seen.
    pub(crate) fn own_id(&self) -> String {
        let lacks = self
            .status("CapEff")
            .is_some_and(|bits| bits & CapabilitySet::SETFCAP.bits() == 0);
        if rustix::process::geteuid().is_root() && lacks {
            return "root needs the capability SETFCAP for its own id: add it (`--cap-add SETFCAP`), or run as another user".to_owned();
        }
        String::new()
    }

    /// A number of `/proc/self/status`, which are hexadecimal or short.
    fn status(&self, name: &str) -> Option<u64> {
        let text = self.text("proc/self/status")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).ok()
    }

    /// How a surrounding container shows all of its `/proc`.
    pub(crate) fn whole_proc(&self) -> String {
        let how = if self.is_kubernetes() {
            "give the pod `securityContext.procMount: Unmasked` and `hostUsers: false`"
        } else if self.root.join("run/.containerenv").exists() {
            "start it with `--security-opt unmask=ALL`"
        } else {
            "start it with `--security-opt systempaths=unconfined`"
        };
        format!("the surrounding container hides parts of its own: {how}")
    }

    pub(crate) fn is_container(&self) -> bool {
        [".dockerenv", "run/.containerenv"]
            .iter()
            .any(|path| self.root.join(path).exists())
            || self.is_kubernetes()
    }

    fn is_kubernetes(&self) -> bool {
        self.root.join("var/run/secrets/kubernetes.io").is_dir()
    }

    /// The root of a process is always a mount of its namespace, unless it was changed by chroot(2).
    fn is_chrooted(&self) -> bool {
        self.text("proc/self/mountinfo").is_some_and(|mounts| {
            !mounts
                .lines()
                .any(|line| line.split(' ').nth(4) == Some("/"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a host with these files.
    fn said(files: &[(&str, &str)], errno: Errno) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Host {
            root: folder.path(),
        }
        .namespaces(errno)
    }

    #[test]
    fn settings_that_forbid_are_named() {
        let filter = ("proc/self/status", "Name:\tx\nSeccomp:\t2\n");
        let whole = ("proc/self/mountinfo", "1 0 8:1 / / rw - ext4 x rw\n");
        let apparmor = (
            "proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1\n",
        );
        for (files, errno, expected) in [
            (&[][..], Errno::PERM, &[][..]),
            (
                &[apparmor],
                Errno::ACCESS,
                &[
                    "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
                    "userns,",
                ],
            ),
            (
                &[("proc/sys/kernel/unprivileged_userns_clone", "0\n")],
                Errno::PERM,
                &["sysctl kernel.unprivileged_userns_clone=1"],
            ),
            (
                &[("proc/sys/user/max_user_namespaces", "0\n")],
                Errno::NOSPC,
                &["sysctl user.max_user_namespaces=10000"],
            ),
            (
                &[("proc/sys/user/max_user_namespaces", "5\n")],
                Errno::NOSPC,
                &["user.max_*_namespaces allow"],
            ),
            (
                &[filter, whole],
                Errno::PERM,
                &["as in a container", "--security-opt seccomp=unconfined"],
            ),
            (
                &[filter, (".dockerenv", "")],
                Errno::PERM,
                &["active: start the container with `--security-opt seccomp=unconfined`"],
            ),
            (
                &[filter, ("var/run/secrets/kubernetes.io/x", "")],
                Errno::PERM,
                &["seccompProfile.type: Unconfined"],
            ),
            (
                &[("proc/self/mountinfo", "1 0 8:1 /x /y rw - ext4 x rw\n")],
                Errno::PERM,
                &["stands in a chroot"],
            ),
            (&[], Errno::INVAL, &["CONFIG_USER_NS"]),
            (&[], Errno::USERS, &["32 levels"]),
        ] {
            let text = said(files, errno);
            for part in expected {
                assert!(text.contains(part), "{files:?} {errno:?}: {text}");
            }
            assert_eq!(
                text.is_empty(),
                expected.is_empty(),
                "{files:?} {errno:?}: {text}"
            );
        }
        // What is wrong is said, not what is usual.
        let both = said(&[apparmor, filter], Errno::PERM);
        assert!(!both.contains("seccomp"), "{both}");
    }
}
