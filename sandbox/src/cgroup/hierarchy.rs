//! Which hierarchies of control groups are mounted, and where in them this process is. Reads, and changes nothing.

use crate::fail::{Failure, Stage};
use std::path::{Path, PathBuf};

/// A mounted hierarchy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hierarchy {
    /// Version 2.
    pub(crate) unified: bool,
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// The group of this process.
    pub(crate) own: PathBuf,
    /// Controllers it has.
    pub(crate) controllers: Vec<String>,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// All that are mounted here, each once.
pub(crate) fn all() -> Result<Vec<Hierarchy>, Failure> {
    let read = |path: &str| std::fs::read_to_string(path).stage_with(|| format!("read {path}"));
    let mut found = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
    for hierarchy in &mut found {
        if hierarchy.unified {
            let path = hierarchy.mount.join("cgroup.controllers");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            hierarchy.controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        if !hierarchy.own.is_dir() {
            hierarchy.own.clone_from(&hierarchy.mount);
        }
    }
    Ok(found)
}

/// Joins what is mounted (proc(5), mountinfo) with where this process is (`/proc/self/cgroup`). Controllers of version 2 are
/// not in these files.
fn parse(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else {
            continue;
        };
        let fields: Vec<&str> = mount.split(' ').collect();
        let kinds: Vec<&str> = file_system.split(' ').collect();
        let (&[_, _, _, root, at, ..], &[kind, .., options]) = (&fields[..], &kinds[..]) else {
            continue;
        };
        let unified = match kind {
            "cgroup2" => true,
            "cgroup" => false,
            _ => continue,
        };
        let line = cgroup.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
            let here = if unified {
                names.is_empty()
            } else {
                !names.is_empty()
                    && names
                        .split(',')
                        .all(|name| options.split(',').any(|option| option == name))
            };
            here.then_some((names, path))
        });
        let Some((names, path)) = line else { continue };
        let mount = PathBuf::from(unescaped(at));
        let controllers = names
            .split(',')
            .filter(|name| !name.is_empty() && !name.starts_with("name="))
            .map(str::to_owned)
            .collect();
        let hierarchy = Hierarchy {
            unified,
            own: below(&mount, &unescaped(root), path),
            mount,
            controllers,
        };
        let known = found
            .iter()
            .any(|known| known.unified == unified && known.controllers == hierarchy.controllers);
        if !known {
            found.push(hierarchy);
        }
    }
    found
}

/// Where a group is, given which group the mount shows as its root. One outside of it is taken for the root.
fn below(mount: &Path, root: &str, path: &str) -> PathBuf {
    let inside = if root == "/" {
        Some(path)
    } else {
        path.strip_prefix(root)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match inside.map(|inside| inside.trim_start_matches('/')) {
        Some("") | None => mount.to_owned(),
        Some(inside) if inside.split('/').any(|part| part == "..") => mount.to_owned(),
        Some(inside) => mount.join(inside),
    }
}

/// Space, tab, newline and backslash are written in octal.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mountinfo: &str, cgroup: &str) -> Vec<String> {
        let show = |hierarchy: Hierarchy| {
            let version = if hierarchy.unified { "v2" } else { "v1" };
            format!(
                "{version} [{}] {}",
                hierarchy.controllers.join(","),
                hierarchy.own.display()
            )
        };
        parse(mountinfo, cgroup).into_iter().map(show).collect()
    }

    #[test]
    fn ru19_hierarchies_of_both_versions_are_found() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "4:memory:/a/b\n9:name=systemd:/\n1:cpu,cpuacct:/\n0::/user.slice\n";
        assert_eq!(
            shown(hybrid, own),
            [
                "v1 [cpu,cpuacct] /sys/fs/cgroup/cpu,cpuacct",
                "v1 [memory] /sys/fs/cgroup/memory/a/b",
                "v1 [] /sys/fs/cgroup/systemd",
                "v2 [] /sys/fs/cgroup/unified/user.slice",
            ]
        );
        let unified = "30 23 0:26 / /sys/fs/cgroup\\040x rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            shown(unified, "0::/user.slice/user-1000.slice/a.scope\n"),
            ["v2 [] /sys/fs/cgroup x/user.slice/user-1000.slice/a.scope"]
        );
        assert_eq!(
            shown("30 23 0:26 / / rw - ext4 /dev/x rw\n", "0::/\n"),
            [""; 0]
        );
    }

    #[test]
    fn a_mount_may_show_a_part_only() {
        let mount = Path::new("/m");
        for (root, path, own) in [
            ("/", "/", "/m"),
            ("/", "/a/b", "/m/a/b"),
            ("/docker/1", "/docker/1", "/m"),
            ("/docker/1", "/docker/1/a", "/m/a"),
            ("/docker/1", "/docker/12", "/m"),
            ("/docker/1", "/", "/m"),
            ("/", "/../x", "/m"),
        ] {
            assert_eq!(below(mount, root, path), Path::new(own), "{root} {path}");
        }
    }
}
