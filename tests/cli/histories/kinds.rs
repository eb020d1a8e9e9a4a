//! Kinds of histories, beyond the plain ones, and what each adds to Dockerfiles, flags and edits: commands with mounts,
//! caches that travel, several platforms, and Git's view of the context.

use super::random::Random;
use super::world::{Elsewhere, World};
use std::collections::BTreeSet;

/// What a history may have. One may have several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Commands with mounts, and a secret that changes.
    Mounts,
    /// Exports, and a second machine that imports.
    Caches,
    /// `--platform`.
    Platforms,
    /// `--context-mode=git`.
    Git,
}

/// Each with its name, and in how many of a hundred histories it is.
const KINDS: [(Kind, &str, usize); 4] = [
    (Kind::Mounts, "mounts", 30),
    (Kind::Caches, "caches", 18),
    (Kind::Platforms, "platforms", 10),
    (Kind::Git, "git", 15),
];

/// Kinds of a history.
pub fn drawn(random: &mut Random) -> Vec<Kind> {
    let drawn = KINDS.iter().filter(|(_, _, share)| random.chance(*share));
    drawn.map(|(kind, ..)| *kind).collect()
}

/// Kinds by their names with commas between; `plain` is none of them.
pub fn named(names: &str) -> Vec<Kind> {
    let names = names.split(',').filter(|name| *name != "plain");
    let kind = |name| {
        let known = KINDS.iter().find(|(_, known, _)| *known == name);
        known
            .unwrap_or_else(|| panic!("{name}: plain, mounts, caches, platforms and git are known"))
    };
    names.map(|name| kind(name).0).collect()
}

/// Two of the same target are not put into one instruction.
const MOUNTS: &[(&str, &str)] = &[
    ("/c", "type=cache"),
    ("/c", "type=cache,id=one,sharing=locked"),
    ("/c", "type=cache,id=one,sharing=private"),
    ("/c", "type=cache,id=one"),
    ("/c", "type=cache,id=one,ro"),
    ("/c", "type=cache,id=of-$A,uid=1000,mode=0777"),
    ("/c", "type=cache,id=filled,from=STAGE,source=/o"),
    ("/o/c", "type=cache,id=one"),
    ("/w/dir", "type=cache,id=two"),
    ("/m", "type=bind"),
    ("/m", "type=bind,source=dir"),
    ("/m", "type=bind,rw"),
    ("/m", "type=bind,source=src"),
    ("/m", "type=bind,from=STAGE,source=/o"),
    ("/m", "type=bind,from=STAGE,source=/w,rw"),
    ("/m", "type=bind,from=STAGE"),
    ("/w/a", "type=bind,source=a"),
    ("/w/b.txt", "type=bind,from=STAGE,source=/o/base"),
    ("/t", "type=tmpfs"),
    ("/o", "type=tmpfs"),
    ("/w/dir", "type=tmpfs,size=1m"),
    ("/run/secrets/s", "type=secret,id=s"),
    ("/o/secret", "type=secret,id=s,mode=0444"),
    ("/run/secrets/s", "type=secret,id=s,uid=5,gid=6,mode=0440"),
    ("TOKEN", "type=secret,id=s"),
];
/// Nothing of it depends on what a cache holds: not even whether it can be written, as owner and mode are those that
/// its first user named.
const WITH_CACHE: &[&str] = &[
    "ls -R {T} > /dev/null",
    "echo $$ >> {T}/count; wc -l < {T}/count > /dev/null",
    "cp /w/a {T}/",
    "rm -rf {T}/*",
    "mkdir -p {T}/deep/er && echo x > {T}/deep/er/x && ln -s x {T}/deep/er/link",
    "test -e {T}/count && cat {T}/count > /dev/null",
    "s=$(cksum < /w/a | tr ' ' -); \
     test -e {T}/$s || { t=$(mktemp {T}/.XXXXXX) && cat /w/a > $t && mv $t {T}/$s; }; \
     cat {T}/$s > /o/made || cat /w/a > /o/made",
];
const WITH_BIND: &[&str] = &[
    "find {T} -type f | sort | xargs cksum > /o/mb",
    "find {T} | sort | xargs stat -c '%n %a %u %g' > /o/ms",
    "cat {T}/a {T}/x {T}/base > /o/ma",
    "echo x > {T}/new; ls {T} > /o/mn",
    "rm -f {T}/a {T}/base; ls {T} > /o/mr",
    "cp {T}/* /o/",
    "cat {T} > /o/one",
    "readlink {T}/link > /o/ml",
];
const WITH_TMPFS: &[&str] = &[
    "echo x > {T}/x; ls -R {T} > /w/mt",
    "ls {T} > /w/mt; echo gone > {T}/gone",
    "cp /w/a {T}/; cksum {T}/a > /new-t",
];
const WITH_SECRET: &[&str] = &[
    "wc -c < {T} > /dev/null; echo s > /o/s",
    "test -s {T} && echo has > /o/has",
    "stat -c '%a %u %g' {T} > /o/st",
];
const WITH_VARIABLE: &[&str] = &[
    "test -n \"$TOKEN\" && echo has > /o/token",
    "echo $TOKEN | cksum > /dev/null",
];

/// A RUN with some mounts.
pub fn mounts(random: &mut Random, earlier: &str) -> String {
    let mut targets = BTreeSet::new();
    let (mut flags, mut commands) = (String::new(), Vec::new());
    while targets.is_empty() || random.chance(45) {
        let (target, mount) = MOUNTS[random.below(MOUNTS.len())];
        // A cache in a folder that is listed would be listed too.
        let below = [("/o", "/o/c"), ("/o/c", "/o")];
        let clash = |(one, other): &(&str, &str)| target == *one && targets.contains(other);
        if below.iter().any(clash) || !targets.insert(target) {
            continue;
        }
        let (word, with) = if mount.starts_with("type=cache") {
            ("target", WITH_CACHE)
        } else if mount.starts_with("type=bind") {
            ("target", WITH_BIND)
        } else if mount.starts_with("type=tmpfs") {
            ("target", WITH_TMPFS)
        } else if target == "TOKEN" {
            ("env", WITH_VARIABLE)
        } else {
            ("target", WITH_SECRET)
        };
        flags = format!("{flags} --mount={mount},{word}={target}");
        commands.push(random.pick(with).replace("{T}", target));
    }
    let flags = flags.replace("STAGE", earlier);
    format!("RUN{flags} ({}) 2>/dev/null || true", commands.join("; "))
}

pub const PLATFORMS: &[&str] = &[
    "linux/amd64,linux/arm64",
    "linux/amd64,linux/arm64",
    "linux/arm64,linux/amd64",
    "linux/arm64",
    "linux/amd64",
];
const OF_PLATFORM: &[&str] = &[
    "ARG TARGETARCH",
    "ARG TARGETPLATFORM BUILDPLATFORM TARGETARCH",
    "ENV ARCH=$TARGETARCH",
    "LABEL arch=$TARGETPLATFORM",
    "WORKDIR /p/$TARGETARCH",
    "COPY a /w/$TARGETARCH/",
    "COPY --link a /l/$TARGETARCH",
    "COPY --from=STAGE /o /p/of-$TARGETARCH",
    "COPY --from=STAGE /w/ /w/",
    "COPY <<E /o/arch\n$TARGETARCH $TARGETPLATFORM\nE",
    "RUN echo $TARGETARCH >> /o/arch",
    "RUN uname -m > /o/machine",
];

/// An instruction that is another one for each platform.
pub fn of_platform(random: &mut Random, earlier: &str) -> String {
    random.pick(OF_PLATFORM).replace("STAGE", earlier)
}

/// Where exports go. The words in braces are known when a build starts.
const PLACES: &[(&str, &str)] = &[
    (
        "type=local,dest={caches}/one",
        "type=local,src={caches}/one",
    ),
    (
        "type=local,dest={caches}/one,tag=t",
        "type=local,src={caches}/one,tag=t",
    ),
    (
        "type=local,dest={caches}/two",
        "type=local,src={caches}/two",
    ),
    (
        "type=registry,ref={registry}/cache:main",
        "{registry}/cache:main",
    ),
    (
        "type=registry,ref={registry}/cache:main",
        "type=registry,ref={registry}/cache:main",
    ),
    (
        "type=registry,ref={registry}/cache:branch",
        "{registry}/cache:branch",
    ),
];
const ATTRIBUTES: &[&str] = &[
    ",mode=max",
    ",mode=max",
    ",mode=max",
    ",mode=min",
    "",
    ",mode=max,compression=zstd",
    ",mode=max,compression=uncompressed,force-compression=true",
    ",mode=max,image-manifest=false",
    ",mode=max,reset=true",
];
const INLINE: &str = "{registry}/app:inline";

/// What a state does with caches.
pub fn caches(random: &mut Random, world: &mut World) {
    if random.chance(60) {
        world.flags.extend(exports(random));
    }
    if random.chance(20) {
        world.flags.extend(imports(random));
    }
    if world.kinds.contains(&Kind::Mounts) && random.chance(40) {
        world.flags.push("--cache-mounts=all".to_owned());
    }
    world.inline = random.chance(25);
    if random.chance(75) {
        let mut flags = imports(random);
        if random.chance(30) {
            flags.extend(exports(random));
        }
        if world.kinds.contains(&Kind::Mounts) && random.chance(40) {
            flags.push("--cache-mounts=all".to_owned());
        }
        world.elsewhere = Some(Elsewhere {
            emptied: random.chance(60),
            at_once: random.chance(20),
            flags,
        });
    }
}

/// The flags of a push that writes an inline cache.
pub fn inline() -> Vec<String> {
    ["--push", "-t", INLINE, "--cache-to=type=inline"]
        .map(str::to_owned)
        .into()
}

fn exports(random: &mut Random) -> Vec<String> {
    let mut flags = Vec::new();
    while flags.is_empty() || random.chance(20) {
        let (to, _) = PLACES[random.below(PLACES.len())];
        flags.push(format!("--cache-to={to}{}", random.pick(ATTRIBUTES)));
    }
    flags
}

fn imports(random: &mut Random) -> Vec<String> {
    let mut flags = Vec::new();
    while flags.is_empty() {
        for (_, from) in PLACES {
            if random.chance(60) {
                flags.push(format!("--cache-from={from}"));
            }
        }
        if random.chance(40) {
            flags.push(format!("--cache-from={INLINE}"));
        }
    }
    flags
}

/// Whether one build has written all its steps to a cache that the other reads.
pub fn all_there(exports: &[String], imports: &[String]) -> bool {
    PLACES.iter().any(|(to, from)| {
        let to = format!("--cache-to={to},mode=max");
        exports.iter().any(|flag| flag.starts_with(&to))
            && imports.contains(&format!("--cache-from={from}"))
    })
}
