//! Profiles in JSON: the compiled program against a plain evaluation of the text, and what is refused.

use super::super::calls::{self, Arch};
use super::super::json::{self, Place};
use super::super::{emit, policy::Answer};
use super::simulate;
use proptest::prelude::*;
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

const PLACE: Place = Place {
    capabilities: CapabilitySet::CHOWN.union(CapabilitySet::SYS_TIME),
    kernel: (5, 15),
};

fn compiled(profile: &Value) -> Vec<libc::sock_filter> {
    let policy = json::policy(&profile.to_string(), PLACE).unwrap().unwrap();
    emit::compile(&policy.sections(|_, _| {}), policy.foreign)
}

/// What a profile says of a call, read from its text without any of the compiler's structures.
fn evaluate(profile: &Value, arch: Arch, number: u32, arguments: [u64; 6]) -> u32 {
    let default = meaning(&profile["defaultAction"], &profile["defaultErrnoRet"]);
    let empty = Vec::new();
    let rules: Vec<&Value> = profile["syscalls"]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .filter(|rule| counts(rule) && meaning(&rule["action"], &rule["errnoRet"]) != default)
        .collect();
    let numbers = |rule: &Value| -> Vec<u32> {
        let names = rule["names"].as_array().unwrap();
        let names = names.iter().filter_map(Value::as_str);
        names.filter_map(|name| calls::number(name, arch)).collect()
    };
    let newest = rules.iter().flat_map(|rule| numbers(rule)).max();
    let about: Vec<&&Value> = rules
        .iter()
        .filter(|rule| numbers(rule).contains(&number))
        .collect();
    let tests = |rule: &Value| rule["args"].as_array().cloned().unwrap_or_default();
    if let Some(rule) = about.iter().find(|rule| tests(rule).is_empty()) {
        return meaning(&rule["action"], &rule["errnoRet"]);
    }
    for rule in &about {
        let tests = tests(rule);
        let twice = tests.iter().any(|test| {
            tests
                .iter()
                .filter(|one| one["index"] == test["index"])
                .count()
                > 1
        });
        let passes = |test: &Value| passes(test, arch, arguments);
        let fits = if twice {
            tests.iter().any(passes)
        } else {
            tests.iter().all(passes)
        };
        if fits {
            return meaning(&rule["action"], &rule["errnoRet"]);
        }
    }
    let forbids = default != 0x7fff_0000 && default != 0x7ffc_0000;
    if about.is_empty() && forbids && number > newest.unwrap_or(0) {
        return 0x0005_0026;
    }
    default
}

fn counts(rule: &Value) -> bool {
    let has = |list: &Value, text: &str| {
        list.as_array()
            .is_some_and(|list| list.iter().any(|item| item == text))
    };
    let caps = |list: &Value| -> Vec<bool> {
        let list = list.as_array().cloned().unwrap_or_default();
        let ours = ["CAP_CHOWN", "CAP_SYS_TIME"];
        list.iter()
            .map(|cap| ours.iter().any(|ours| cap == ours))
            .collect()
    };
    let new_enough = |version: &Value| version.as_str() != Some("6.1");
    let native = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
    let left_out = has(&excludes["arches"], native)
        || caps(&excludes["caps"]).contains(&true)
        || (excludes["minKernel"].is_string() && new_enough(&excludes["minKernel"]));
    let taken = (includes["arches"].is_null() || has(&includes["arches"], native))
        && !caps(&includes["caps"]).contains(&false)
        && new_enough(&includes["minKernel"]);
    taken && !left_out
}

fn meaning(action: &Value, errno: &Value) -> u32 {
    let errno = errno.as_u64().unwrap_or(1) as u32;
    match action.as_str().unwrap() {
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 + errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 + errno,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        other => panic!("{other}"),
    }
}

fn passes(test: &Value, arch: Arch, arguments: [u64; 6]) -> bool {
    let index = usize::try_from(test["index"].as_u64().unwrap()).unwrap();
    let cut = |value: u64| {
        if arch.is_wide() {
            value
        } else {
            value & 0xffff_ffff
        }
    };
    let argument = cut(arguments[index]);
    let value = cut(test["value"].as_u64().unwrap());
    let second = cut(test["valueTwo"].as_u64().unwrap_or(0));
    match test["op"].as_str().unwrap() {
        "SCMP_CMP_NE" => argument != value,
        "SCMP_CMP_LT" => argument < value,
        "SCMP_CMP_LE" => argument <= value,
        "SCMP_CMP_EQ" => argument == value,
        "SCMP_CMP_GE" => argument >= value,
        "SCMP_CMP_GT" => argument > value,
        "SCMP_CMP_MASKED_EQ" => argument & value == second,
        other => panic!("{other}"),
    }
}

const NAMES: [&str; 12] = [
    "read",
    "write",
    "openat2",
    "clone",
    "personality",
    "mount",
    "execve",
    "mmap2",
    "futex_waitv",
    "stime",
    "no_such_call",
    "arch_prctl",
];
const ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG",
];
const OPS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];

/// Numbers that differ in either half, so that comparisons meet their edges.
fn edge() -> impl Strategy<Value = u64> {
    let half = prop::sample::select(vec![0_u64, 1, 2, 3, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]);
    (half.clone(), half).prop_map(|(high, low)| high << 32 | low)
}

fn profile() -> impl Strategy<Value = Value> {
    let test = (0..3_u8, edge(), edge(), prop::sample::select(&OPS[..])).prop_map(
        |(index, value, second, op)| json!({"index": index, "value": value, "valueTwo": second, "op": op}),
    );
    let filter = prop::sample::select(vec![
        json!({}),
        json!({"caps": ["CAP_CHOWN"]}),
        json!({"caps": ["CAP_CHOWN", "CAP_BPF"]}),
        json!({"arches": ["amd64", "arm64"]}),
        json!({"arches": ["s390x"]}),
        json!({"minKernel": "4.8"}),
        json!({"minKernel": "6.1"}),
    ]);
    let rule = (
        prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4),
        prop::sample::select(&ACTIONS[..]),
        prop::option::of(0..4096_u32),
        prop::collection::vec(test, 0..4),
        (filter.clone(), prop::option::weighted(0.1, filter)),
    )
        .prop_map(|(names, action, errno, args, (includes, excludes))| {
            json!({"names": names, "action": action, "errnoRet": errno, "args": args, "includes": includes, "excludes": excludes})
        });
    (
        prop::sample::select(&ACTIONS[..]),
        prop::option::of(0..200_u32),
        prop::collection::vec(rule, 0..8),
    )
        .prop_map(|(action, errno, rules)| {
            let map = json!([{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}]);
            json!({"defaultAction": action, "defaultErrnoRet": errno, "archMap": map, "syscalls": rules})
        })
}

proptest! {
    /// The search tree with its jumps answers as the text does, read rule by rule.
    #[test]
    fn a_compiled_profile_answers_as_its_text_says(
        profile in profile(),
        calls in prop::collection::vec((prop::sample::select(&NAMES[..]), 0..600_u32, edge(), edge(), edge()), 20),
    ) {
        let filter = compiled(&profile);
        for arch in Arch::NATIVE {
            for (name, other, first, second, third) in &calls {
                let arguments = [*first, *second, *third, 0, 0, 0];
                for number in [calls::number(name, arch).unwrap_or(*other), *other] {
                    let (got, _) = simulate(&filter, arch.audit(), number, arguments);
                    let expected = evaluate(&profile, arch, number, arguments);
                    prop_assert_eq!(got, expected, "{:?} {} {:?}", arch, number, arguments);
                }
            }
        }
    }

    #[test]
    fn any_text_is_refused_or_taken(text in "\\PC*") {
        let _ = json::policy(&text, PLACE);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn x32_has_numbers_of_its_own() {
    let rules = json!([{"names": ["read", "execve"], "action": "SCMP_ACT_ALLOW"}]);
    let with = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X32"], "syscalls": rules});
    let without = json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": rules});
    let audit = Arch::X86_64.audit();
    let x32 = 0x4000_0000;
    for (profile, number, expected) in [
        (&with, 0, Answer::ALLOW),
        (&with, 1, Answer::EPERM),
        (&with, 59, Answer::ALLOW),
        (&with, x32, Answer::ALLOW),
        (&with, x32 + 1, Answer::EPERM),
        (&with, x32 + 59, Answer::EPERM),
        (&with, x32 + 520, Answer::ALLOW),
        (&with, x32 + 521, Answer::ENOSYS),
        (&without, 1, Answer::LOG),
        (&without, x32, Answer::ENOSYS),
        (&without, x32 + 520, Answer::ENOSYS),
    ] {
        let (got, _) = simulate(&compiled(profile), audit, number, [0; 6]);
        assert_eq!(got, expected.0, "{number:#x} of {profile}");
    }
    let (got, _) = simulate(&compiled(&with), Arch::X86.audit(), 3, [0; 6]);
    assert_eq!(
        got,
        Answer::KILL_PROCESS.0,
        "an architecture that is not listed"
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn sockets_of_old_32_bit_programs_follow_their_names() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
        {"names": ["connect", "sendmmsg", "semget", "msgget", "shmctl"], "action": "SCMP_ACT_ALLOW"},
    ]});
    let filter = compiled(&profile);
    let answers = |call: u32, allowed: &[u64]| {
        for number in 0..30 {
            let (got, _) = simulate(&filter, Arch::X86.audit(), call, [number, 0, 0, 0, 0, 0]);
            let expected = if allowed.contains(&number) {
                Answer::ALLOW
            } else {
                Answer::EPERM
            };
            assert_eq!(got, expected.0, "{call} {number}");
        }
    };
    answers(102, &[3, 20]);
    answers(117, &[2, 13, 24]);
}

#[test]
fn a_profile_that_says_nothing_is_none() {
    for text in ["{}", r#"{"defaultAction": ""}"#, r#"{"syscalls": null}"#] {
        assert!(json::policy(text, PLACE).unwrap().is_none(), "{text}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_field() {
    for (text, expected) in [
        ("[]", "expected an object"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        (r#"{"syscalls": [{}]}"#, "defaultAction is missing"),
        (
            r#"{"defaultAction": 1}"#,
            "defaultAction: expected a string",
        ),
        (
            r#"{"defaultAction": "ALLOW"}"#,
            "defaultAction: unknown action \"ALLOW\"",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}"#,
            "defaultErrnoRet: expected at most 4095",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}"#,
            "syscalls: expected a list",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "SCMP_ARCH_X86_64"}], "architectures": ["SCMP_ARCH_X86"]}"#,
            "both architectures and archMap are given: a profile has one of them",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"]}]}"#,
            "syscalls[0]: action is missing",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "write", "names": ["read"], "action": "SCMP_ACT_TRAP"}]}"#,
            "syscalls[0]: both name and names are given: a rule has one of them",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            "syscalls[0].action: SCMP_ACT_NOTIFY is not supported",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_TRAP"}, {"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]}"#,
            "syscalls[1].args[0]: index: a call has no argument 6",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]}]}"#,
            "syscalls[0].args[0].value: expected a number that is not negative",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 1, "op": "EQ"}]}]}"#,
            "syscalls[0].args[0].op: unknown comparison \"EQ\"",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRAP", "includes": {"minKernel": "new"}}]}"#,
            "syscalls[0].includes.minKernel: expected a version such as 4.8",
        ),
    ] {
        assert_eq!(json::policy(text, PLACE).unwrap_err(), expected, "{text}");
    }
}
