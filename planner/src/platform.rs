//! Platforms: `os/arch[/variant]`, normalised as containerd's platforms package does.
//!
//! It does not look at the machine: where a name leaves something open, the caller's default fills it.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A platform.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `os.version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

/// Operating systems as Go names them; a lone word among these is an OS.
const OPERATING_SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

/// Architectures as Go names them; a lone word among these is an architecture.
const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// What a part must look like, as messages put it.
const COMPONENT: &str = r#""^[A-Za-z0-9_.-]+$""#;
/// What an OS must look like, as messages put it.
const OS_COMPONENT: &str = r#""^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.-]*)\\))?$""#;

impl Platform {
    /// A normalised platform from its parts; an empty variant is none.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = normalise_arch(architecture, variant);
        Self {
            os: normalise_os(os),
            architecture,
            variant,
            os_version: None,
        }
    }

    /// The platform that this program was compiled for.
    #[must_use]
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, "")
    }

    /// Parses `os[(version)]/arch[/variant]`, a lone OS or a lone architecture; `default` fills what is left open.
    ///
    /// # Errors
    /// An empty or ill-formed part, or a lone word that is neither an OS nor an architecture; in the words of containerd.
    pub fn parse(text: &str, default: &Self) -> Result<Self, Error> {
        let fail = |what: String| Error::InvalidPlatform {
            platform: text.to_owned(),
            what,
        };
        if text.contains('*') {
            return Err(fail(format!("{text:?}: wildcards not yet supported")));
        }
        let parts: Vec<&str> = text.split('/').collect();
        let Some((first, os_version)) = split_os_version(parts[0]) else {
            let what = format!(
                "{:?} is an invalid OS component of {text:?}: OSAndVersion specifier component must match {OS_COMPONENT}",
                parts[0]
            );
            return Err(fail(what));
        };
        if let Some(part) = parts[1..].iter().find(|part| !is_word(part)) {
            let what = format!(
                "{part:?} is an invalid component of {text:?}: platform specifier component must match {COMPONENT}"
            );
            return Err(fail(what));
        }
        let mut platform = match parts.as_slice() {
            [_] => Self::from_one_word(first, default).ok_or_else(|| {
                fail(format!(
                    "{text:?}: unknown operating system or architecture"
                ))
            })?,
            [_, architecture] => Self::new(first, architecture, ""),
            [_, architecture, variant] => Self::new(first, architecture, variant),
            _ => return Err(fail(format!("{text:?}: cannot parse platform specifier"))),
        };
        platform.os_version = os_version
            .filter(|version| !version.is_empty())
            .map(str::to_owned);
        Ok(platform)
    }

    fn from_one_word(word: &str, default: &Self) -> Option<Self> {
        let os = normalise_os(word);
        if OPERATING_SYSTEMS.contains(&os.as_str()) {
            return Some(Self {
                os,
                os_version: None,
                ..default.clone()
            });
        }
        let (architecture, variant) = normalise_arch(word, "");
        if !ARCHITECTURES.contains(&architecture.as_str()) {
            return None;
        }
        Some(Self {
            os: default.os.clone(),
            architecture,
            variant,
            os_version: None,
        })
    }

    /// The same platform in its canonical spelling.
    #[must_use]
    pub fn normalise(&self) -> Self {
        let mut platform = Self::new(
            &self.os,
            &self.architecture,
            self.variant.as_deref().unwrap_or(""),
        );
        platform.os_version = self
            .os_version
            .clone()
            .filter(|version| !version.is_empty());
        platform
    }

    /// Whether both name the same platform. An `os.version` counts only where both have one.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        let (a, b) = (self.normalise(), other.normalise());
        let version_fits = match (&a.os_version, &b.os_version) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        a.os == b.os && a.architecture == b.architecture && a.variant == b.variant && version_fits
    }

    /// The candidate that runs best on this platform: its own, then older variants, then what it can emulate
    /// in hardware (386 on amd64, 32-bit arm on arm64). Of equals the first.
    #[must_use]
    pub fn best_match(&self, candidates: &[Self]) -> Option<usize> {
        let wanted = self.normalise();
        self.compatible().iter().find_map(|able| {
            let exact = candidates.iter().position(|c| {
                able.matches(c) && c.os_version.is_some() && c.os_version == wanted.os_version
            });
            exact.or_else(|| candidates.iter().position(|c| able.matches(c)))
        })
    }

    /// What this platform runs, best first.
    fn compatible(&self) -> Vec<Self> {
        let own = self.normalise();
        let with = |architecture: &str, variant: Option<String>| Self {
            architecture: architecture.to_owned(),
            variant,
            ..own.clone()
        };
        let level = own.variant.as_deref().and_then(variant_number);
        let mut list = vec![own.clone()];
        match own.architecture.as_str() {
            "amd64" => {
                list.extend(
                    (2..level.unwrap_or(1))
                        .rev()
                        .map(|n| with("amd64", Some(format!("v{n}")))),
                );
                if level.is_some() {
                    list.push(with("amd64", None));
                }
                list.push(with("386", None));
            }
            "arm" => list.extend(
                (5..level.unwrap_or(7))
                    .rev()
                    .map(|n| with("arm", Some(format!("v{n}")))),
            ),
            "arm64" => {
                if own.variant.is_some() {
                    list.push(with("arm64", None));
                }
                list.extend((5..=8).rev().map(|n| with("arm", Some(format!("v{n}")))));
            }
            _ => {}
        }
        list
    }
}

impl fmt::Display for Platform {
    /// `os[(version)]/arch[/variant]`, the variant left out where it says nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if let Some(version) = self
            .os_version
            .as_deref()
            .filter(|version| !version.is_empty())
        {
            write!(f, "({version})")?;
        }
        write!(f, "/{}", self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some("v8") if self.architecture == "arm64" => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// As [`Platform::parse`] with the host's platform as the default.
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text, &Self::host())
    }
}

fn variant_number(variant: &str) -> Option<u8> {
    variant.strip_prefix('v')?.parse().ok()
}

fn normalise_os(os: &str) -> String {
    match os.to_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normalise_arch(architecture: &str, variant: &str) -> (String, Option<String>) {
    let (architecture, variant) = (architecture.to_lowercase(), variant.to_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64" | "ppc64el", variant) => ("ppc64le", variant),
        ("loongarch64", variant) => ("loong64", variant),
        (architecture, variant) => (architecture, variant),
    };
    (
        architecture.to_owned(),
        Some(variant.to_owned()).filter(|variant| !variant.is_empty()),
    )
}

fn is_word(part: &str) -> bool {
    !part.is_empty()
        && part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// `os(version)` in its two parts.
fn split_os_version(part: &str) -> Option<(&str, Option<&str>)> {
    let Some((os, rest)) = part.split_once('(') else {
        return is_word(part).then_some((part, None));
    };
    let version = rest.strip_suffix(')')?;
    (is_word(os) && (version.is_empty() || is_word(version))).then_some((os, Some(version)))
}
