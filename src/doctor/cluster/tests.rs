//! The rendering of made-up workers.

use super::*;
use std::sync::Arc;

fn answer() -> Value {
    json!({
        "kernel": "6.18.0",
        "machine": "x86_64",
        "uid": 1000,
        "kiln": "0.1.0",
        "scratch": [{ "folder": "/tmp", "free": 5_u64 << 30, "root": "overlay" }],
        "secrets": { "folders": ["/run/secrets/kiln", "/run/kiln/secrets"], "ids": ["npm", "to\u{1b}ken"] },
        "agents": { "folders": ["/run/kiln/ssh"], "ids": [] },
        "network": { "interfaces": ["lo", "eth0"], "default_route": true },
        "granted": {
            "scratch": "/tmp",
            "isolation": "full",
            "root": "overlay",
            "ids": "single",
            "records_owners": true,
            "notes": ["one\u{1b}[2Jnote"],
        },
        "facts": [
            { "id": "user-namespace", "name": "user namespaces", "tried": "", "works": true, "found": "", "errno": null, "fix": "" },
            { "id": "proc", "name": "a new /proc", "tried": "", "works": false, "found": "", "errno": 1, "fix": "unmask it" },
            { "id": "subuid", "name": "ids", "tried": "", "works": false, "found": "no line", "errno": null, "fix": "add one" },
            { "id": "pasta", "name": "pasta", "tried": "", "works": false, "found": "", "errno": null, "fix": "install it" },
        ],
    })
}

fn report(change: impl FnOnce(&mut Value)) -> ClusterReport {
    let mut answer = answer();
    change(&mut answer);
    ClusterReport::new(&Check {
        url: "grpcs://builds.example".to_owned(),
        addresses: Ok(vec![([192, 0, 2, 1], 443).into()]),
        capabilities: None::<Result<(Arc<Capabilities>, Duration), String>>,
        lookup: Some(Ok(Duration::from_micros(800))),
        storage: None,
        writes: Some(Ok(false)),
        workers: vec![WorkerCheck {
            platform: "linux/amd64".to_owned(),
            properties: Vec::new(),
            probe: Ok((answer, Duration::from_millis(20))),
            name: "w1".to_owned(),
        }],
    })
}

#[test]
fn a_worker_is_told_in_lines() {
    let found = report(|_| {});
    assert!(found.works());
    assert_eq!(
        found.lines(),
        "\
ok          address: 192.0.2.1:443
ok          lookup in the action cache: 0.8 ms
not needed  action cache: only read from here, as it should be for whoever is not trusted (--remote-cache ...,mode=ro)

linux/amd64
ok          worker w1: user 1000, Linux 6.18.0, x86_64, kiln 0.1.0, answered in 20.0 ms
ok          RUN: isolation full
ok          roots: overlay in /tmp, 5120 MiB free
ok          owners: exact; the worker has one id, and the others are recorded
ok          network: lo, eth0, with a default route
ok          secrets: npm, token (for steps with allow=secret)
not needed  SSH agents: none in /run/kiln/ssh
not needed  limits: none can be set; steps with --memory and the like fail
missing     a new /proc: Operation not permitted (os error 1) (fix: unmask it)
not needed  note: one[2Jnote

grpcs://builds.example: steps can be carried out
"
    );
    let json = found.json();
    assert_eq!(json["works"], true);
    assert_eq!(json["workers"]["linux/amd64"]["uid"], 1000);
    assert_eq!(json["findings"][3]["platform"], "linux/amd64");
}

type Change = fn(&mut Value);

#[test]
fn what_a_worker_lacks_counts() {
    let cases: [(&str, bool, Change); 8] = [
        ("missing     ids: no line (fix: add one)", true, |it| {
            it["granted"]["records_owners"] = false.into();
        }),
        ("missing     owners: only the worker's own", true, |it| {
            it["granted"]["records_owners"] = false.into();
        }),
        ("ok          owners: exact\n", true, |it| {
            it["granted"]["ids"] = "subordinate".into();
        }),
        ("missing     RUN: isolation chroot", false, |it| {
            it["granted"]["isolation"] = "chroot".into();
        }),
        ("missing     RUN: not possible: no ids", false, |it| {
            it["granted"] = json!({ "error": "no ids" });
        }),
        ("missing     roots: copies", true, |it| {
            it["granted"]["root"] = "copy".into();
        }),
        ("missing     network: lo, eth0 and no default", true, |it| {
            it["network"]["default_route"] = false.into();
        }),
        (
            "missing     RUN: the worker's answer makes no sense",
            false,
            |it| {
                *it = json!([1]);
            },
        ),
    ];
    for (says, works, change) in cases {
        let found = report(change);
        assert!(found.lines().contains(says), "{says}:\n{}", found.lines());
        assert_eq!(found.works(), works, "{says}");
    }
}
