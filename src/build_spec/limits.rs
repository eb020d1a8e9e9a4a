//! Limits of RUN steps: sizes and numbers as Docker reads them, with its rules of what goes together.

use super::usage;
use crate::args::LimitArgs;
use crate::error::Failure;
use executor::request::OutputLimits;
use sandbox::Resources;
use std::time::Duration;

/// Docker's least limit of memory, in bytes: what a container needs to start.
const LEAST_MEMORY: u64 = 6 << 20;
/// Period that `--cpus` is counted in, in microseconds.
const PERIOD: u64 = 100_000;

/// One limit as it was written: the flag or key it came by, and its value.
struct Given<'a> {
    /// `--memory`, or `--resource` with its key in the text.
    flag: &'static str,
    /// The flag's whole value, for messages.
    text: &'a str,
    key: &'a str,
    value: &'a str,
}

impl Given<'_> {
    fn invalid(&self, reason: impl std::fmt::Display) -> Failure {
        usage(format!(
            "invalid value {:?} for '{}': {reason}",
            self.text, self.flag
        ))
    }

    fn number<T: std::str::FromStr>(&self) -> Result<T, Failure> {
        let value = self.value;
        value
            .parse()
            .map_err(|_| self.invalid(format!("{value:?} is not a number")))
    }
}

/// All limits; flags of their own win over `--resource`.
pub fn resources(args: &LimitArgs) -> Result<Resources, Failure> {
    let mut resources = Resources::default();
    for text in &args.resources {
        for (key, value) in pairs(text)? {
            let given = Given {
                flag: "--resource",
                text,
                key,
                value,
            };
            set(&mut resources, &given)?;
        }
    }
    for (flag, key, value) in [
        ("--memory", "memory", &args.memory),
        ("--memory-swap", "memory-swap", &args.memory_swap),
        ("--cpu-shares", "cpu-shares", &args.cpu_shares),
        ("--cpu-period", "cpu-period", &args.cpu_period),
        ("--cpu-quota", "cpu-quota", &args.cpu_quota),
        ("--cpuset-cpus", "cpuset-cpus", &args.cpuset_cpus),
        ("--cpuset-mems", "cpuset-mems", &args.cpuset_mems),
        ("--cpus", "cpus", &args.cpus),
        ("--pids-limit", "pids-limit", &args.pids_limit),
    ] {
        let Some(text) = value.as_deref().filter(|text| !text.is_empty()) else {
            continue;
        };
        let given = Given {
            flag,
            text,
            key,
            value: text,
        };
        set(&mut resources, &given)?;
    }
    resources
        .cgroup_parent
        .clone_from(&args.cgroup_parent.clone().filter(|name| !name.is_empty()));
    if let Some(name) = &resources.cgroup_parent
        && name.split('/').any(|part| part == "..")
    {
        return Err(usage(format!(
            "invalid value {name:?} for '--cgroup-parent': a control group's path has no `..`"
        )));
    }
    check(&resources)?;
    Ok(resources)
}

/// `KEY=VALUE[,KEY=VALUE...]`. Lists of processors have commas too: what has no key belongs to the value before.
fn pairs(text: &str) -> Result<Vec<(&str, &str)>, Failure> {
    let mut starts = vec![0];
    for (at, _) in text.match_indices(',') {
        let next = &text[at + 1..];
        let word = &next[..next.find(',').unwrap_or(next.len())];
        if word.contains('=') {
            starts.push(at + 1);
        }
    }
    let ends = starts.iter().skip(1).map(|start| start - 1);
    let entries = starts.iter().zip(ends.chain([text.len()]));
    entries
        .map(|(&start, end)| {
            let entry = &text[start..end];
            let (key, value) = entry
                .split_once('=')
                .ok_or_else(|| usage(format!("invalid value {text:?} for '--resource': invalid resource {entry:?}, expected key=value")))?;
            Ok((key.trim(), value.trim()))
        })
        .collect()
}

fn set(resources: &mut Resources, given: &Given<'_>) -> Result<(), Failure> {
    match given.key {
        "memory" => resources.memory = memory(given)?,
        "memory-swap" => resources.memory_swap = memory_swap(given)?,
        "cpu-shares" => {
            let shares: i64 = given.number()?;
            if shares < 0 {
                return Err(given.invalid(format!(
                    "invalid CPU shares ({shares}): value must be a positive integer"
                )));
            }
            resources.cpu_shares = Some(shares.unsigned_abs()).filter(|shares| *shares > 0);
        }
        "cpu-period" => {
            let period: i64 = given.number()?;
            if period != 0 && !(1_000..=1_000_000).contains(&period) {
                return Err(given.invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"));
            }
            resources.cpu_period = Some(period.unsigned_abs()).filter(|period| *period > 0);
        }
        "cpu-quota" => {
            let quota: i64 = given.number()?;
            if (1..1_000).contains(&quota) {
                return Err(given.invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
            }
            resources.cpu_quota = Some(quota).filter(|quota| *quota > 0);
        }
        "cpuset-cpus" => resources.cpuset_cpus = Some(list(given)?),
        "cpuset-mems" => resources.cpuset_mems = Some(list(given)?),
        "cpus" => {
            let quota = cpus(given)?;
            if quota.is_some() && resources.cpu_period.is_some() {
                return Err(
                    given.invalid("conflicting options: CPUs and CPU period cannot both be set")
                );
            }
            if quota.is_some() && resources.cpu_quota.is_some() {
                return Err(
                    given.invalid("conflicting options: CPUs and CPU quota cannot both be set")
                );
            }
            if let Some(quota) = quota {
                (resources.cpu_period, resources.cpu_quota) = (Some(PERIOD), Some(quota));
            }
        }
        "pids-limit" => {
            let most: i64 = given.number()?;
            resources.pids = Some(most).filter(|most| *most > 0);
        }
        key => return Err(given.invalid(format!("unknown resource {key:?}"))),
    }
    Ok(())
}

fn memory(given: &Given<'_>) -> Result<Option<u64>, Failure> {
    let bytes = bytes(given.value).map_err(|reason| given.invalid(reason))?;
    if bytes != 0 && bytes < LEAST_MEMORY {
        return Err(given.invalid("minimum memory limit allowed is 6MB"));
    }
    Ok(Some(bytes).filter(|bytes| *bytes > 0))
}

fn memory_swap(given: &Given<'_>) -> Result<Option<i64>, Failure> {
    if given.value == "-1" {
        return Ok(Some(-1));
    }
    let bytes = bytes(given.value).map_err(|reason| given.invalid(reason))?;
    let bytes = i64::try_from(bytes).map_err(|_| given.invalid("it is too large"))?;
    Ok(Some(bytes).filter(|bytes| *bytes > 0))
}

/// Microseconds of a period's length that so many processors have.
fn cpus(given: &Given<'_>) -> Result<Option<i64>, Failure> {
    let value = given.value;
    let cpus: f64 = given.number()?;
    if cpus == 0.0 {
        return Ok(None);
    }
    let there = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = u32::try_from(there).map_or(f64::MAX, f64::from);
    if !(0.01..=most).contains(&cpus) {
        return Err(given.invalid(format!(
            "range of CPUs is from 0.01 to {there}.00, as there are only {there} CPUs available, not {value}"
        )));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most the number of processors times a period"
    )]
    let quota = (cpus * 100_000.0).round() as i64;
    Ok(Some(quota))
}

/// `0-3,7`: that they are there, the kernel says.
fn list(given: &Given<'_>) -> Result<String, Failure> {
    let is_number = |text: &str| text.parse::<u32>().ok();
    let is_range = |part: &str| match part.split_once('-') {
        None => is_number(part).is_some(),
        Some((from, to)) => is_number(from)
            .zip(is_number(to))
            .is_some_and(|(from, to)| from <= to),
    };
    if given.value.split(',').all(is_range) {
        return Ok(given.value.to_owned());
    }
    Err(given.invalid(format!(
        "{:?} is not a list such as 0-3 or 0,1",
        given.value
    )))
}

/// What must hold between the limits.
fn check(resources: &Resources) -> Result<(), Failure> {
    let swap = resources.memory_swap.filter(|swap| *swap > 0);
    let Some(swap) = swap.map(i64::unsigned_abs) else {
        return Ok(());
    };
    match resources.memory {
        None => Err(usage(
            "invalid value for '--memory-swap': you should always set the memory limit (--memory) when using a memory-swap limit",
        )),
        Some(memory) if swap < memory => Err(usage(
            "invalid value for '--memory-swap': minimum memoryswap limit should be larger than memory limit",
        )),
        Some(_) => Ok(()),
    }
}

/// `--timeout`: a duration as Go writes it.
pub fn timeout(text: &str) -> Result<Duration, Failure> {
    let invalid = |reason: &str| usage(format!("invalid value {text:?} for '--timeout': {reason}"));
    let nanoseconds = parser::value::duration(text).map_err(|reason| invalid(&reason))?;
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => Err(invalid("it must be longer than nothing")),
        Ok(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
    }
}

/// How much of a command's output is shown, by BuildKit's variables; -1 is all of it.
pub fn output<'a>(variable: impl Fn(&str) -> Option<&'a str>) -> Result<OutputLimits, Failure> {
    let read = |name: &str, default: Option<u64>| -> Result<Option<u64>, Failure> {
        let Some(text) = variable(name).filter(|text| !text.is_empty()) else {
            return Ok(default);
        };
        let number: i64 = text.parse().map_err(|_| {
            usage(format!(
                "invalid {name} {text:?}: expected a number of bytes, or -1 for no limit"
            ))
        })?;
        Ok(u64::try_from(number).ok())
    };
    let default = OutputLimits::default();
    Ok(OutputLimits {
        size: read("BUILDKIT_STEP_LOG_MAX_SIZE", default.size)?,
        speed: read("BUILDKIT_STEP_LOG_MAX_SPEED", default.speed)?,
    })
}

/// A size of a flag, in bytes.
pub fn size(flag: &'static str, text: &str) -> Result<u64, Failure> {
    bytes(text).map_err(|reason| usage(format!("invalid value {text:?} for '{flag}': {reason}")))
}

/// Bytes as Docker reads them: a decimal number, perhaps a space, and b, k, m, g, t or p, perhaps with b or ib behind.
fn bytes(text: &str) -> Result<u64, String> {
    let end = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')
        .ok_or_else(|| format!("invalid size: '{text}'"))?;
    let (number, suffix) = text.split_at(end + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let decimal = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    let number: f64 = number
        .parse()
        .ok()
        .filter(|_| decimal)
        .ok_or_else(|| format!("invalid size: '{text}'"))?;
    let lower = suffix.to_ascii_lowercase();
    let (unit, rest) = lower.split_at(lower.chars().next().map_or(0, char::len_utf8));
    let shift = match (unit, rest) {
        ("" | "b", "") => 0,
        ("k", "" | "b" | "ib") => 10,
        ("m", "" | "b" | "ib") => 20,
        ("g", "" | "b" | "ib") => 30,
        ("t", "" | "b" | "ib") => 40,
        ("p", "" | "b" | "ib") => 50,
        _ => return Err(format!("invalid suffix: '{suffix}'")),
    };
    #[expect(clippy::cast_precision_loss, reason = "a power of two")]
    let bytes = number * (1_u64 << shift) as f64;
    if bytes >= 9.2e18 {
        return Err(format!("invalid size: '{text}'"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range, and not negative without a sign"
    )]
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        match result.unwrap_err() {
            Failure::Usage(message) => message,
            other => panic!("{other:?}"),
        }
    }

    fn of(args: &LimitArgs) -> Resources {
        resources(args).ok().unwrap()
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn sizes_are_dockers() {
        for (text, expected) in [
            ("64", 64),
            ("64b", 64),
            ("2k", 2048),
            ("64m", 64 << 20),
            ("1.5g", 3 << 29),
            ("1GiB", 1 << 30),
            ("1gb", 1 << 30),
            ("1 g", 1 << 30),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for (text, says) in [
            ("", "invalid size: ''"),
            ("m", "invalid size: 'm'"),
            ("-1", "invalid size: '-1'"),
            ("1x", "invalid suffix: 'x'"),
            ("1bb", "invalid suffix: 'bb'"),
            ("1mx", "invalid suffix: 'mx'"),
            ("1.2.3m", "invalid size: '1.2.3m'"),
            ("99999999p", "invalid size: '99999999p'"),
        ] {
            assert_eq!(bytes(text), Err(says.to_owned()), "{text}");
        }
    }

    #[test]
    fn ru19_flags_become_limits() {
        let resources = of(&LimitArgs {
            memory: text("512m"),
            memory_swap: text("-1"),
            cpus: text("0.5"),
            cpu_shares: text("512"),
            cpuset_cpus: text("0-1,3"),
            pids_limit: text("100"),
            cgroup_parent: text("/a"),
            ..LimitArgs::default()
        });
        assert_eq!(
            resources,
            Resources {
                memory: Some(512 << 20),
                memory_swap: Some(-1),
                cpu_period: Some(100_000),
                cpu_quota: Some(50_000),
                cpu_shares: Some(512),
                cpuset_cpus: text("0-1,3"),
                pids: Some(100),
                cgroup_parent: text("/a"),
                ..Resources::default()
            }
        );
        let none = LimitArgs {
            memory: text("0"),
            cpus: text("0"),
            cpu_quota: text("-1"),
            pids_limit: text("-1"),
            cgroup_parent: text(""),
            ..LimitArgs::default()
        };
        assert_eq!(of(&none), Resources::default());
    }

    #[test]
    fn ru19_resource_has_the_keys_of_buildx() {
        let resources = of(&LimitArgs {
            resources: vec![
                "memory=1g,cpuset-cpus=0,1,cpu-period=50000".to_owned(),
                "cpu-quota=25000".to_owned(),
                "memory-swap=2g, cpuset-mems=0".to_owned(),
            ],
            memory: text("1536m"),
            ..LimitArgs::default()
        });
        assert_eq!(
            resources,
            Resources {
                memory: Some(1536 << 20),
                memory_swap: Some(2 << 30),
                cpu_period: Some(50_000),
                cpu_quota: Some(25_000),
                cpuset_cpus: text("0,1"),
                cpuset_mems: text("0"),
                ..Resources::default()
            }
        );
        for (given, says) in [
            ("memory", "invalid resource \"memory\", expected key=value"),
            ("pids=3", "unknown resource \"pids\""),
            ("cpu-quota=x", "\"x\" is not a number"),
            ("memory=1x", "invalid suffix: 'x'"),
        ] {
            let reason = reason(resources_of(given));
            assert!(
                reason.contains(says) && reason.contains("--resource"),
                "{reason}"
            );
        }
    }

    #[test]
    fn variables_limit_what_is_shown() {
        let with = |size: &'static str, speed: &'static str| {
            output(move |name| Some(if name.ends_with("SIZE") { size } else { speed }))
        };
        let shown = |size, speed| OutputLimits { size, speed };
        assert_eq!(with("", "").ok(), Some(shown(Some(2 << 20), None)));
        assert_eq!(with("-1", "1000").ok(), Some(shown(None, Some(1000))));
        assert!(reason(with("1m", "")).contains("BUILDKIT_STEP_LOG_MAX_SIZE \"1m\""));
    }

    fn resources_of(given: &str) -> Result<Resources, Failure> {
        resources(&LimitArgs {
            resources: vec![given.to_owned()],
            ..LimitArgs::default()
        })
    }

    /// Sets what is behind a flag.
    type Set = fn(&mut LimitArgs);

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let cases: [(Set, &str); 12] = [
            (
                |args| args.memory = text("4m"),
                "'--memory': minimum memory limit allowed is 6MB",
            ),
            (
                |args| args.memory = text("x"),
                "invalid value \"x\" for '--memory': invalid size: 'x'",
            ),
            (
                |args| args.memory_swap = text("1g"),
                "always set the memory limit",
            ),
            (
                |args| {
                    args.memory = text("1g");
                    args.memory_swap = text("512m");
                },
                "should be larger than memory limit",
            ),
            (
                |args| args.cpus = text("1000"),
                "'--cpus': range of CPUs is from 0.01 to",
            ),
            (
                |args| {
                    args.cpus = text("1");
                    args.cpu_quota = text("5000");
                },
                "CPUs and CPU quota cannot both be set",
            ),
            (
                |args| args.cpu_period = text("10"),
                "CPU cfs period can not be less than 1ms",
            ),
            (
                |args| args.cpu_quota = text("10"),
                "CPU cfs quota can not be less than 1ms",
            ),
            (
                |args| args.cpu_shares = text("-1"),
                "invalid CPU shares (-1)",
            ),
            (
                |args| args.cpuset_cpus = text("3-1"),
                "'--cpuset-cpus': \"3-1\" is not a list",
            ),
            (
                |args| args.pids_limit = text("few"),
                "'--pids-limit': \"few\" is not a number",
            ),
            (
                |args| args.cgroup_parent = text("/a/../b"),
                "'--cgroup-parent'",
            ),
        ];
        for (set, says) in cases {
            let mut args = LimitArgs::default();
            set(&mut args);
            let reason = reason(resources(&args));
            assert!(reason.contains(says), "{reason}");
        }
        assert_eq!(timeout("1m30s").ok(), Some(Duration::from_secs(90)));
        for bad in ["", "0s", "-1s", "fast", "5"] {
            assert!(reason(timeout(bad)).contains("'--timeout'"), "{bad}");
        }
    }
}
