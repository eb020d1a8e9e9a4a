//! `kiln doctor --executor`: what it says of a server of the test's own, and of one that is not there.

use crate::cluster::{architecture, executor, options};
use crate::support::Project;
use serde_json::Value;
use testkit::reapi::{Options, Server};

fn json(project: &Project, args: &[&str]) -> (bool, Value) {
    let run = project.kiln(&[&["doctor", "--format", "json"], args].concat());
    let value = serde_json::from_slice(&run.stdout);
    let value = value.unwrap_or_else(|error| panic!("{error}: {} {}", run.text(), run.stderr));
    (run.status == 0, value)
}

/// State and text of what it says of something.
#[track_caller]
fn found(report: &Value, id: &str) -> (String, String) {
    let all = report["findings"].as_array().unwrap();
    let one = all.iter().find(|finding| finding["id"] == id);
    let one = one.unwrap_or_else(|| panic!("nothing of {id}: {report:#}"));
    let text = |key: &str| one[key].as_str().unwrap().to_owned();
    (text("state"), text("text"))
}

#[test]
fn the_doctor_looks_at_a_cluster() {
    let server = Server::start(options());
    let project = Project::new("FROM scratch\n");
    let flag = executor(&server, "");
    let (works, report) = json(&project, &[&flag, "--write"]);
    assert_eq!(report["works"], works);
    for id in [
        "address",
        "connection",
        "protocol",
        "execution",
        "lookup",
        "storage",
        "worker",
    ] {
        assert_eq!(found(&report, id).0, "ok", "{id}");
    }
    assert!(found(&report, "worker").1.contains("worker-1"));
    assert_eq!(found(&report, "action-cache-write").0, "ok");
    // The worker is this machine: it can do what this machine can.
    let here = project.kiln(&["doctor"]);
    assert_eq!(works, here.status == 0, "{report:#}");
    let probe = &report["workers"][format!("linux/{}", architecture())];
    assert_eq!(probe["kiln"], env!("CARGO_PKG_VERSION"));
    assert_eq!(server.counters().actions_run, 1);

    let run = project.kiln(&["doctor", &flag]);
    let lines = run.text();
    assert!(
        lines.contains(&format!("\n\nlinux/{}\nok ", architecture())),
        "{lines}"
    );
    assert!(
        lines.contains(&format!("\n{}: steps can", server.url())),
        "{lines}"
    );
}

#[test]
fn the_doctor_tells_what_a_cluster_lacks() {
    let project = Project::new("FROM scratch\n");
    let (works, report) = json(&project, &["--executor=grpc://127.0.0.1:1"]);
    assert!(!works);
    assert_eq!(found(&report, "connection").0, "missing");
    assert!(
        report["findings"].as_array().unwrap().len() == 2,
        "{report:#}"
    );

    // A cache without workers, which takes nothing from us.
    let server = Server::start(Options {
        execution: false,
        cache_writes: false,
        ..options()
    });
    let (works, report) = json(&project, &[&executor(&server, ""), "--write"]);
    assert!(!works);
    assert_eq!(found(&report, "execution").0, "missing");
    assert_eq!(found(&report, "storage").0, "ok");
    assert_eq!(found(&report, "action-cache-write").0, "not-needed");

    // A worker of another kind, and no program for it.
    let server = Server::start(Options {
        node_properties: false,
        ..options()
    });
    let flag = executor(&server, ",property=ISA=nobody,queue-timeout=1s");
    let (works, report) = json(&project, &[&flag]);
    assert!(!works);
    assert_eq!(found(&report, "node-properties").0, "not-needed");
    let (state, text) = found(&report, "worker");
    assert_eq!(state, "missing");
    assert!(text.contains("ISA=nobody"), "{text}");
    let flag = executor(&server, "");
    let (works, report) = json(&project, &[&flag, "--platform", "linux/s390x"]);
    assert!(!works);
    assert!(found(&report, "worker").1.contains("binary=s390x=FILE"));

    let refused = project.kiln(&["doctor", "--write"]);
    assert_eq!(refused.status, 2, "{}", refused.stderr);
}
