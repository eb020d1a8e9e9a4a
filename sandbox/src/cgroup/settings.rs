//! What limits mean: which controller knows them, and what is written into which of its files in either version.

use super::hierarchy::Hierarchy;
use super::place;
use crate::Resources;
use rustix::io::Errno;
use std::path::Path;

/// Controllers that know one of the limits.
pub(crate) const CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuset", "pids"];
/// Microseconds of a period where none is given (the kernel's own).
const PERIOD: u64 = 100_000;

/// A limit that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    pub(crate) controller: &'static str,
    /// `memory=64m`, for messages.
    pub(crate) shown: String,
    /// It only goes with another one, where the kernel has it.
    pub(crate) optional: bool,
    /// File and value in version 1, and in version 2.
    values: [(&'static str, String); 2],
}

/// A limit in one hierarchy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Setting {
    pub(crate) controller: &'static str,
    pub(crate) shown: String,
    pub(crate) file: &'static str,
    pub(crate) value: String,
    pub(crate) optional: bool,
}

/// The limits, in the order in which they are set.
pub(crate) fn wanted(resources: &Resources) -> Vec<Wanted> {
    let mut wanted = memory(resources);
    wanted.extend(cpu(resources));
    for (name, list) in [
        ("cpuset.cpus", &resources.cpuset_cpus),
        ("cpuset.mems", &resources.cpuset_mems),
    ] {
        let shown = |list: &str| format!("{}={list}", name.replace('.', "-"));
        wanted.extend(
            list.as_ref()
                .map(|list| Wanted::alike("cpuset", shown(list), name, list)),
        );
    }
    let pids = resources.pids.filter(|pids| *pids > 0);
    wanted.extend(pids.map(|pids| {
        Wanted::alike(
            "pids",
            format!("pids={pids}"),
            "pids.max",
            &pids.to_string(),
        )
    }));
    wanted
}

impl Wanted {
    fn new(
        controller: &'static str,
        shown: String,
        v1: (&'static str, String),
        v2: (&'static str, String),
    ) -> Self {
        Self {
            controller,
            shown,
            optional: false,
            values: [v1, v2],
        }
    }

    /// The same file and value in both versions.
    fn alike(controller: &'static str, shown: String, file: &'static str, value: &str) -> Self {
        let value = (file, value.to_owned());
        Self::new(controller, shown, value.clone(), value)
    }
}

fn memory(resources: &Resources) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    if let Some(bytes) = resources.memory {
        wanted.push(Wanted::new(
            "memory",
            format!("memory={}", size(bytes)),
            ("memory.limit_in_bytes", bytes.to_string()),
            ("memory.max", bytes.to_string()),
        ));
    }
    if let Some(swap) = swap(resources) {
        wanted.push(Wanted {
            optional: resources.memory_swap.is_none(),
            ..Wanted::new(
                "memory",
                format!("memory-swap={}", swap.shown),
                ("memory.memsw.limit_in_bytes", swap.both),
                ("memory.swap.max", swap.alone),
            )
        });
    }
    wanted
}

fn cpu(resources: &Resources) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    if let Some(shares) = resources.cpu_shares {
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        wanted.push(Wanted::new(
            "cpu",
            format!("cpu-shares={shares}"),
            ("cpu.shares", shares.to_string()),
            ("cpu.weight", weight.to_string()),
        ));
    }
    let quota = resources.cpu_quota.filter(|quota| *quota > 0);
    if let Some(period) = resources.cpu_period {
        let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
        wanted.push(Wanted::new(
            "cpu",
            format!("cpu-period={period}"),
            ("cpu.cfs_period_us", period.to_string()),
            ("cpu.max", format!("{quota} {period}")),
        ));
    }
    if let Some(quota) = quota {
        let period = resources.cpu_period.unwrap_or(PERIOD);
        wanted.push(Wanted::new(
            "cpu",
            format!("cpu-quota={quota}"),
            ("cpu.cfs_quota_us", quota.to_string()),
            ("cpu.max", format!("{quota} {period}")),
        ));
    }
    wanted
}

/// What a hierarchy is told of the limits.
pub(crate) fn of(wanted: &[Wanted], hierarchy: &Hierarchy) -> Vec<Setting> {
    let here = wanted
        .iter()
        .filter(|wanted| hierarchy.has(wanted.controller));
    here.map(|wanted| {
        let (file, value) = &wanted.values[usize::from(hierarchy.unified)];
        Setting {
            controller: wanted.controller,
            shown: wanted.shown.clone(),
            file,
            value: value.clone(),
            optional: wanted.optional,
        }
    })
    .collect()
}

struct Swap {
    shown: String,
    /// Memory and swap together, as version 1 counts.
    both: String,
    /// Swap alone, as version 2 counts.
    alone: String,
}

/// Without a word about swap, a command may use as much of it as of memory, as with Docker.
fn swap(resources: &Resources) -> Option<Swap> {
    let memory = resources.memory?;
    let both = match resources.memory_swap {
        Some(..0) => {
            return Some(Swap {
                shown: "-1".to_owned(),
                both: "-1".to_owned(),
                alone: "max".to_owned(),
            });
        }
        Some(both) => both.unsigned_abs(),
        None => memory.saturating_mul(2),
    };
    Some(Swap {
        shown: size(both),
        both: both.to_string(),
        alone: both.saturating_sub(memory).to_string(),
    })
}

/// `64m`: bytes in the largest unit that divides them.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(30, "g"), (20, "m"), (10, "k")];
    let unit = units
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    match unit {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// What would make a limit possible.
pub(crate) fn fix(setting: &Setting, folder: &Path, errno: Errno, hierarchy: &Hierarchy) -> String {
    match (setting.controller, errno) {
        ("memory", Errno::NOENT) if setting.shown.starts_with("memory-swap") => {
            "the kernel does not account swap: boot it with swapaccount=1, or leave memory-swap out"
                .to_owned()
        }
        ("cpuset", _) => {
            let file = if hierarchy.unified {
                format!("{}.effective", setting.file)
            } else {
                setting.file.to_owned()
            };
            let there = folder.parent().map(|parent| parent.join(file));
            let there = there.and_then(|file| std::fs::read_to_string(file).ok());
            there.map_or_else(String::new, |there| format!("available: {}", there.trim()))
        }
        ("cpu", Errno::INVAL) => {
            "a surrounding control group allows less, or the value is out of the kernel's range"
                .to_owned()
        }
        (_, errno) => place::fix(hierarchy, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(resources: &Resources, unified: bool) -> Vec<String> {
        let hierarchy = Hierarchy {
            unified,
            mount: "/".into(),
            own: "/".into(),
            controllers: CONTROLLERS.map(str::to_owned).into(),
        };
        of(&wanted(resources), &hierarchy)
            .into_iter()
            .map(|setting| format!("{} -> {} {}", setting.shown, setting.file, setting.value))
            .collect()
    }

    #[test]
    fn ru19_limits_in_both_versions() {
        let resources = Resources {
            memory: Some(64 << 20),
            memory_swap: Some(96 << 20),
            cpu_period: Some(50_000),
            cpu_quota: Some(25_000),
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".to_owned()),
            cpuset_mems: Some("0".to_owned()),
            pids: Some(20),
            ..Resources::default()
        };
        assert_eq!(
            lines(&resources, false),
            [
                "memory=64m -> memory.limit_in_bytes 67108864",
                "memory-swap=96m -> memory.memsw.limit_in_bytes 100663296",
                "cpu-shares=1024 -> cpu.shares 1024",
                "cpu-period=50000 -> cpu.cfs_period_us 50000",
                "cpu-quota=25000 -> cpu.cfs_quota_us 25000",
                "cpuset-cpus=0-1 -> cpuset.cpus 0-1",
                "cpuset-mems=0 -> cpuset.mems 0",
                "pids=20 -> pids.max 20",
            ]
        );
        assert_eq!(
            lines(&resources, true),
            [
                "memory=64m -> memory.max 67108864",
                "memory-swap=96m -> memory.swap.max 33554432",
                "cpu-shares=1024 -> cpu.weight 39",
                "cpu-period=50000 -> cpu.max 25000 50000",
                "cpu-quota=25000 -> cpu.max 25000 50000",
                "cpuset-cpus=0-1 -> cpuset.cpus 0-1",
                "cpuset-mems=0 -> cpuset.mems 0",
                "pids=20 -> pids.max 20",
            ]
        );
    }

    #[test]
    fn swap_is_as_much_as_memory_unless_said_otherwise() {
        let with = |memory_swap| Resources {
            memory: Some(1000),
            memory_swap,
            ..Resources::default()
        };
        for (swap, v1, v2) in [
            (None, "2000", "1000"),
            (Some(-1), "-1", "max"),
            (Some(1000), "1000", "0"),
        ] {
            assert!(lines(&with(swap), false)[1].ends_with(&format!("memsw.limit_in_bytes {v1}")));
            assert!(lines(&with(swap), true)[1].ends_with(&format!("swap.max {v2}")));
        }
        assert!(wanted(&with(None))[1].optional && !wanted(&with(Some(-1)))[1].optional);
    }

    #[test]
    fn weights_span_the_range_of_shares() {
        for (shares, weight) in [(2, "1"), (1024, "39"), (262_144, "10000")] {
            let resources = Resources {
                cpu_shares: Some(shares),
                ..Resources::default()
            };
            assert!(lines(&resources, true)[0].ends_with(&format!("cpu.weight {weight}")));
        }
    }

    #[test]
    fn sizes_are_shown_in_their_largest_unit() {
        for (bytes, shown) in [
            (64 << 20, "64m"),
            (3 << 30, "3g"),
            (1 << 10, "1k"),
            (1000, "1000"),
            (0, "0"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
