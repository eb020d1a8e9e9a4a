//! What a worker must be, as its server names it. It decides where a step runs, and with the instruction set what it
//! makes.

use crate::request::{ExecutorSettings, Preset};
use planner::platform::Platform;
use std::collections::BTreeMap;

/// Properties of a worker for steps of a platform, sorted, as actions must have them. `architecture` is what Kiln's own
/// program there is made for.
pub(crate) fn properties(
    settings: &ExecutorSettings,
    os: &str,
    architecture: &str,
) -> Vec<(String, String)> {
    let mut all: BTreeMap<&str, &str> = BTreeMap::new();
    all.insert("OSFamily", os);
    match settings.preset {
        Preset::Buildbuddy => all.insert("Arch", architecture),
        _ => all.insert("ISA", instruction_set(architecture)),
    };
    if settings.preset == Preset::Buildbox {
        // Root outside cannot make a user namespace there: its map of ids needs more than the sandbox leaves it.
        all.insert("unixUID", "1000");
        all.insert("unixGID", "1000");
    }
    for (name, value) in &settings.properties {
        if value.is_empty() {
            all.remove(name.as_str());
        } else {
            all.insert(name, value);
        }
    }
    let owned = all.into_iter();
    owned
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The specification's name of an instruction set; the architecture where it has none.
fn instruction_set(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86-64",
        "386" => "x86-32",
        "arm64" => "arm-a64",
        "arm" => "arm-a32",
        "riscv64" => "rv64g",
        "ppc64le" => "power-isa-le",
        "ppc64" => "power-isa-be",
        other => other,
    }
}

/// What Kiln's program on the worker is made for: a machine of 64 bits runs programs of 32 bits, where nobody says
/// otherwise.
pub(crate) fn worker_architecture<'p>(
    settings: &ExecutorSettings,
    platform: &'p Platform,
) -> &'p str {
    match platform.architecture.as_str() {
        "386" if !settings.binaries.contains_key("386") => "amd64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::EndpointSettings;

    fn in_words(properties: &[(String, String)]) -> String {
        let each = properties.iter();
        let each: Vec<String> = each
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        each.join(", ")
    }

    #[test]
    fn servers_name_workers_in_their_ways() {
        let said = |preset, extra: &[(&str, &str)], architecture: &str| {
            let mut settings = ExecutorSettings::new(EndpointSettings::default());
            settings.preset = preset;
            let extra = extra.iter();
            settings.properties = extra
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            in_words(&properties(&settings, "linux", architecture))
        };
        for (preset, extra, architecture, wanted) in [
            (
                Preset::Standard,
                &[][..],
                "amd64",
                "ISA=x86-64, OSFamily=linux",
            ),
            (
                Preset::Buildgrid,
                &[("Pool", "x"), ("ISA", "")],
                "arm64",
                "OSFamily=linux, Pool=x",
            ),
            (
                Preset::Buildbox,
                &[("unixUID", "7")],
                "arm64",
                "ISA=arm-a64, OSFamily=linux, unixGID=1000, unixUID=7",
            ),
            (
                Preset::Buildbuddy,
                &[("Arch", "aarch64")],
                "arm64",
                "Arch=aarch64, OSFamily=linux",
            ),
            (
                Preset::Nativelink,
                &[],
                "s390x",
                "ISA=s390x, OSFamily=linux",
            ),
        ] {
            assert_eq!(said(preset, extra, architecture), wanted);
        }
    }

    #[test]
    fn modes_and_times_go_where_they_arrive() {
        for (preset, wanted) in [
            (Preset::Standard, false),
            (Preset::Buildbox, true),
            (Preset::Buildgrid, true),
            (Preset::Nativelink, false),
        ] {
            assert_eq!(preset.carries_unannounced(), wanted, "{preset:?}");
        }
    }

    #[test]
    fn programs_of_32_bits_run_on_64() {
        let mut settings = ExecutorSettings::new(EndpointSettings::default());
        let platform = Platform::new("linux", "386", "");
        assert_eq!(worker_architecture(&settings, &platform), "amd64");
        settings.binaries.insert("386".to_owned(), "kiln".into());
        assert_eq!(worker_architecture(&settings, &platform), "386");
    }
}
