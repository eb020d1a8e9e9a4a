//! Names of capabilities, and which of them a command has.

use crate::spec::Security;
use rustix::thread::CapabilitySet;

/// Docker's default capabilities (0xa80425fb).
pub(crate) const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// In the order of their numbers, from 0 (capabilities(7)).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// Name of all capabilities.
pub(crate) const ALL: &str = "ALL";

/// A capability's name as [`Security`] has it: without `CAP_`, in upper case; `ALL` for all. `None` for what is none.
#[must_use]
pub fn capability_name(text: &str) -> Option<&'static str> {
    let upper = text.to_ascii_uppercase();
    if upper == ALL {
        return Some(ALL);
    }
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.into_iter().find(|name| *name == bare)
}

/// By name, with or without `CAP_`, in upper case.
pub(crate) fn by_name(name: &str) -> Option<CapabilitySet> {
    let bare = name.strip_prefix("CAP_").unwrap_or(name);
    let number = NAMES.iter().position(|known| *known == bare)?;
    Some(CapabilitySet::from_bits_retain(1 << number))
}

/// What a command has as root: Docker's, with what is added and without what is taken away. All taken away leaves what is
/// added.
pub(crate) fn of(security: &Security) -> Result<CapabilitySet, String> {
    let has_all = |names: &[String]| names.iter().any(|name| name == ALL);
    let set = |names: &[String]| {
        let mut set = CapabilitySet::empty();
        for name in names.iter().filter(|name| *name != ALL) {
            set |= by_name(name).ok_or_else(|| format!("unknown capability {name:?}"))?;
        }
        Ok::<_, String>(set)
    };
    let (added, dropped) = (set(&security.cap_add)?, set(&security.cap_drop)?);
    let (add_all, drop_all) = (has_all(&security.cap_add), has_all(&security.cap_drop));
    if add_all && drop_all {
        return Err("adding all capabilities and dropping all of them is not possible".to_owned());
    }
    if drop_all {
        return Ok(added);
    }
    let both = security
        .cap_add
        .iter()
        .find(|name| *name != ALL && security.cap_drop.contains(name));
    if let Some(both) = both {
        return Err(format!("capability {both:?} cannot be dropped and added"));
    }
    let base = if add_all { every() } else { DEFAULT | added };
    Ok(base - dropped)
}

fn every() -> CapabilitySet {
    CapabilitySet::from_bits_retain((1 << NAMES.len()) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_capabilities_are_dockers() {
        assert_eq!(DEFAULT.bits(), 0xa804_25fb);
    }

    #[test]
    fn names_in_any_form() {
        for (text, name) in [
            ("SYS_ADMIN", Some("SYS_ADMIN")),
            ("cap_sys_admin", Some("SYS_ADMIN")),
            ("Cap_Checkpoint_Restore", Some("CHECKPOINT_RESTORE")),
            ("all", Some("ALL")),
            ("CAP_ALL", None),
            ("CAP_", None),
            ("", None),
            ("SYS-ADMIN", None),
        ] {
            assert_eq!(capability_name(text), name, "{text}");
        }
        assert_eq!(by_name("CAP_BPF"), Some(CapabilitySet::BPF));
        assert_eq!(by_name("MKNOD"), Some(CapabilitySet::MKNOD));
    }

    #[test]
    fn added_and_dropped() {
        let names = |list: &str| list.split_whitespace().map(str::to_owned).collect();
        for (add, drop, expected) in [
            ("", "", Ok(DEFAULT)),
            ("SYS_ADMIN", "", Ok(DEFAULT | CapabilitySet::SYS_ADMIN)),
            (
                "",
                "CHOWN KILL",
                Ok(DEFAULT - CapabilitySet::CHOWN - CapabilitySet::KILL),
            ),
            ("", "SYS_ADMIN", Ok(DEFAULT)),
            ("BPF", "ALL", Ok(CapabilitySet::BPF)),
            ("", "ALL", Ok(CapabilitySet::empty())),
            ("ALL", "", Ok(every())),
            ("ALL", "MKNOD", Ok(every() - CapabilitySet::MKNOD)),
            (
                "ALL",
                "ALL",
                Err("adding all capabilities and dropping all of them is not possible"),
            ),
            (
                "CHOWN",
                "CHOWN",
                Err("capability \"CHOWN\" cannot be dropped and added"),
            ),
            ("FOO", "", Err("unknown capability \"FOO\"")),
        ] {
            let security = Security {
                cap_add: names(add),
                cap_drop: names(drop),
                ..Security::default()
            };
            assert_eq!(
                of(&security),
                expected.map_err(str::to_owned),
                "+{add} -{drop}"
            );
        }
    }
}
