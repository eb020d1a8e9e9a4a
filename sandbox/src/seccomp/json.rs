//! Profiles in Docker's JSON, with the meaning that Docker and libseccomp give them.
//!
//! Rules whose conditions do not hold for the machine, the kernel or the capabilities are left out, and so are names of calls
//! that no machine here has. What is not understood is an error that names the field.

use super::calls::Arch;
use super::policy::{Answer, Compare, Policy, Rule, Test};
use rustix::thread::CapabilitySet;
use serde_json::Value;

/// What the conditions of a profile are held against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) capabilities: CapabilitySet,
    /// Version and revision of the kernel.
    pub(super) kernel: (u32, u32),
}

/// errno of a profile that names none: EPERM, as runc has it.
const ERRNO: u16 = 1;
/// Largest errno that the kernel hands on.
const MAX_ERRNO: u64 = 4095;
/// Arguments of a call.
const ARGUMENTS: u64 = 6;

/// What socketcall(2) has, from 1 on.
const SOCKET_CALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];
/// What ipc(2) has: from 1, from 11 and from 21 on, four each.
const IPC_CALLS: [&str; 12] = [
    "semop",
    "semget",
    "semctl",
    "semtimedop",
    "msgsnd",
    "msgrcv",
    "msgget",
    "msgctl",
    "shmat",
    "shmdt",
    "shmget",
    "shmctl",
];

/// A policy, or `None` for a profile that says nothing at all, which is none.
pub(super) fn policy(text: &str, place: Place) -> Result<Option<Policy>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let root = Field {
        name: String::new(),
        value: &value,
    };
    root.object()?;
    let default = root.get("defaultAction");
    let calls = root.list("syscalls")?;
    if default.as_ref().is_none_or(Field::is_empty_text) && calls.is_empty() {
        return Ok(None);
    }
    let Some(default) = default else {
        return Err("defaultAction is missing".to_owned());
    };
    if let Some(listener) = root
        .get("listenerPath")
        .filter(|field| !field.is_empty_text())
    {
        return Err(listener.error("listeners are not supported"));
    }
    let default = action(&default, root.errno("defaultErrnoRet")?)?;
    let mut rules = Vec::new();
    for call in &calls {
        rules.extend(call_rules(call, place, default)?);
    }
    // A call newer than all that the profile knows is missing rather than forbidden, as in runc.
    let newer = match default {
        Answer::ALLOW | Answer::LOG => default,
        _ => Answer::ENOSYS,
    };
    Ok(Some(Policy {
        architectures: architectures(&root)?,
        rules,
        default,
        newer,
        unassigned: None,
        foreign: Answer::KILL_PROCESS,
    }))
}

/// A value of the profile and where it stands.
struct Field<'a> {
    name: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    fn error(&self, reason: &str) -> String {
        if self.name.is_empty() {
            return reason.to_owned();
        }
        format!("{}: {reason}", self.name)
    }

    fn object(&self) -> Result<(), String> {
        match self.value {
            Value::Object(_) => Ok(()),
            _ => Err(self.error("expected an object")),
        }
    }

    /// A member; null is as good as none.
    fn get(&self, key: &str) -> Option<Field<'a>> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        let name = if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        };
        Some(Field { name, value })
    }

    fn list(&self, key: &str) -> Result<Vec<Field<'a>>, String> {
        let Some(field) = self.get(key) else {
            return Ok(Vec::new());
        };
        let Value::Array(items) = field.value else {
            return Err(field.error("expected a list"));
        };
        Ok(items
            .iter()
            .enumerate()
            .map(|(index, value)| Field {
                name: format!("{}[{index}]", field.name),
                value,
            })
            .collect())
    }

    fn text(&self) -> Result<&'a str, String> {
        self.value
            .as_str()
            .ok_or_else(|| self.error("expected a string"))
    }

    fn texts(&self, key: &str) -> Result<Vec<&'a str>, String> {
        self.list(key)?.iter().map(Field::text).collect()
    }

    fn is_empty_text(&self) -> bool {
        self.value.as_str().is_some_and(str::is_empty)
    }

    fn number(&self) -> Result<u64, String> {
        self.value
            .as_u64()
            .ok_or_else(|| self.error("expected a number that is not negative"))
    }

    fn errno(&self, key: &str) -> Result<Option<u16>, String> {
        let Some(field) = self.get(key) else {
            return Ok(None);
        };
        match field.number()? {
            errno @ 0..=MAX_ERRNO => Ok(u16::try_from(errno).ok()),
            _ => Err(field.error("expected at most 4095")),
        }
    }
}

fn action(field: &Field<'_>, data: Option<u16>) -> Result<Answer, String> {
    let data = data.unwrap_or(ERRNO);
    Ok(match field.text()? {
        "SCMP_ACT_ALLOW" => Answer::ALLOW,
        "SCMP_ACT_ERRNO" => Answer::fail(data),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Answer::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => Answer::KILL_PROCESS,
        "SCMP_ACT_TRAP" => Answer::TRAP,
        "SCMP_ACT_TRACE" => Answer::trace(data),
        "SCMP_ACT_LOG" => Answer::LOG,
        "SCMP_ACT_NOTIFY" => return Err(field.error("SCMP_ACT_NOTIFY is not supported")),
        other => return Err(field.error(&format!("unknown action {other:?}"))),
    })
}

/// The machine's own architecture always counts; of the others those that the profile has for it.
fn architectures(root: &Field<'_>) -> Result<Vec<Arch>, String> {
    let listed = root.list("architectures")?;
    let map = root.list("archMap")?;
    if !listed.is_empty() && !map.is_empty() {
        return Err(
            "both architectures and archMap are given: a profile has one of them".to_owned(),
        );
    }
    let native = Arch::NATIVE[0];
    let mut names = Vec::new();
    for field in &listed {
        names.push(field.text()?);
    }
    for entry in &map {
        entry.object()?;
        let Some(name) = entry.get("architecture") else {
            return Err(entry.error("architecture is missing"));
        };
        let below = entry.texts("subArchitectures")?;
        if name.text()? == native.profile_name() && names.is_empty() {
            names = below;
        }
    }
    let here =
        |arch: &Arch| Arch::NATIVE.contains(arch) || (native == Arch::X86_64 && *arch == Arch::X32);
    let mut found = vec![native];
    for arch in names.into_iter().filter_map(Arch::named).filter(here) {
        if !found.contains(&arch) {
            found.push(arch);
        }
    }
    Ok(found)
}

fn call_rules(
    call: &Field<'_>,
    place: Place,
    default: Answer,
) -> Result<Vec<(String, Rule)>, String> {
    call.object()?;
    let mut names = call.texts("names")?;
    if let Some(name) = call.get("name").filter(|name| !name.is_empty_text()) {
        if !names.is_empty() {
            return Err(call.error("both name and names are given: a rule has one of them"));
        }
        names.push(name.text()?);
    }
    let Some(action_field) = call.get("action") else {
        return Err(call.error("action is missing"));
    };
    let answer = action(&action_field, call.errno("errnoRet")?)?;
    let tests = call
        .list("args")?
        .iter()
        .map(test)
        .collect::<Result<Vec<Test>, String>>()?;
    let excluded = match call.get("excludes") {
        Some(excludes) => holds(&excludes, place)?.contains(&true),
        None => false,
    };
    let included = match call.get("includes") {
        Some(includes) => !holds(&includes, place)?.contains(&false),
        None => true,
    };
    // What the default does anyhow is not looked at by libseccomp's users either.
    if excluded || !included || answer == default {
        return Ok(Vec::new());
    }
    let mut alternatives = vec![tests.clone()];
    let twice = |test: &Test| {
        tests
            .iter()
            .filter(|one| one.argument == test.argument)
            .count()
            > 1
    };
    if tests.iter().any(twice) {
        // Tests of one argument are alternatives then, and so are all others.
        alternatives = tests.iter().map(|test| vec![*test]).collect();
    }
    let mut rules = Vec::new();
    for name in names {
        for tests in &alternatives {
            let tests = tests.clone();
            rules.push((name.to_owned(), Rule { tests, answer }));
        }
        rules.extend(
            tests
                .is_empty()
                .then(|| multiplexed(name, answer))
                .flatten(),
        );
    }
    Ok(rules)
}

/// The same for a call that old 32-bit programs make as a number of another call. Arguments are behind a pointer there.
fn multiplexed(name: &str, answer: Answer) -> Option<(String, Rule)> {
    let number_in = |names: &[&str]| names.iter().position(|known| *known == name);
    let (call, number) = match (number_in(&SOCKET_CALLS), number_in(&IPC_CALLS)) {
        (Some(number), _) => ("socketcall", number + 1),
        // Those of shared memory have numbers of their own.
        (_, Some(number)) if number < 4 => ("ipc", number + 1),
        (_, Some(number)) if number < 8 => ("ipc", number + 7),
        (_, Some(number)) => ("ipc", number + 13),
        _ => return None,
    };
    let test = Test {
        argument: 0,
        compare: Compare::Equal(number as u64),
        low: true,
    };
    let tests = vec![test];
    Some((call.to_owned(), Rule { tests, answer }))
}

/// Which conditions hold: architectures as a whole, each capability, the kernel.
fn holds(filter: &Field<'_>, place: Place) -> Result<Vec<bool>, String> {
    filter.object()?;
    let mut results = Vec::new();
    let arches = filter.texts("arches")?;
    if !arches.is_empty() {
        let native = if Arch::NATIVE[0] == Arch::X86_64 {
            "amd64"
        } else {
            "arm64"
        };
        results.push(arches.contains(&native));
    }
    for name in filter.texts("caps")? {
        let known = crate::capability::by_name(name);
        results.push(known.is_some_and(|known| place.capabilities.contains(known)));
    }
    if let Some(field) = filter.get("minKernel") {
        let wanted = kernel_version(field.text()?)
            .ok_or_else(|| field.error("expected a version such as 4.8"))?;
        results.push(place.kernel >= wanted);
    }
    Ok(results)
}

/// First two numbers of a kernel's version.
pub(super) fn kernel_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|char: char| !char.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn test(field: &Field<'_>) -> Result<Test, String> {
    field.object()?;
    let number = |key: &str| field.get(key).map_or(Ok(0), |field| field.number());
    let index = number("index")?;
    let Some(argument) = u8::try_from(index).ok().filter(|_| index < ARGUMENTS) else {
        return Err(field.error(&format!("index: a call has no argument {index}")));
    };
    let (value, second) = (number("value")?, number("valueTwo")?);
    let Some(op) = field.get("op") else {
        return Err(field.error("op is missing"));
    };
    let compare = match op.text()? {
        "SCMP_CMP_NE" => Compare::NotEqual(value),
        "SCMP_CMP_LT" => Compare::Less(value),
        "SCMP_CMP_LE" => Compare::LessOrEqual(value),
        "SCMP_CMP_EQ" => Compare::Equal(value),
        "SCMP_CMP_GE" => Compare::GreaterOrEqual(value),
        "SCMP_CMP_GT" => Compare::Greater(value),
        "SCMP_CMP_MASKED_EQ" => Compare::Masked {
            mask: value,
            value: second,
        },
        other => return Err(op.error(&format!("unknown comparison {other:?}"))),
    };
    Ok(Test {
        argument,
        compare,
        low: false,
    })
}
