//! `kiln plan`: what a build would do, and that it does nothing.

use crate::support::{Project, files_below, with_busybox};
use serde_json::Value;
use std::path::PathBuf;
use testkit::reapi::{Options, Server};
use testkit::registry::FakeRegistry;

const DOCKERFILE: &str = "\
FROM busybox AS build
ARG N=1
RUN echo $N > /n && echo same > /same
FROM busybox
COPY a /a
COPY --from=build /same /same
RUN cat /same > /copied
";

fn project() -> Project {
    let project = Project::new(DOCKERFILE);
    project.write("a", "a");
    project
}

fn plan(project: &Project, args: &[&str]) -> crate::support::Run {
    let mut command = project.command(&["plan"]);
    command.args(with_busybox()).args(args).arg("context");
    project.run(command)
}

#[track_caller]
fn as_json(project: &Project, args: &[&str]) -> Value {
    let mut all = vec!["--format", "json"];
    all.extend(args);
    serde_json::from_str(plan(project, &all).ok().text()).unwrap()
}

/// `HIT MISS ...`, without the base images.
fn results(plan: &Value) -> Vec<String> {
    let steps = plan["steps"].as_array().unwrap().iter();
    steps
        .filter(|step| !step["instruction"].as_str().unwrap().starts_with("FROM"))
        .map(|step| step["result"].as_str().unwrap().to_owned())
        .collect()
}

/// Files of the store, but for caches of stats and locks.
fn kept(project: &Project) -> Vec<PathBuf> {
    let mut files = files_below(&project.store());
    files.retain(|path| !path.starts_with(project.store().join("stat")));
    files.sort();
    files
}

#[test]
fn before_the_first_build_all_would_run() {
    let project = project();
    let found = as_json(&project, &[]);
    // The base is known by its layers, so what stands on it alone is sure to run.
    assert_eq!(results(&found), ["MISS", "MISS", "UNKNOWN", "UNKNOWN"]);
    assert_eq!(found["compared"], false);
    assert_eq!(found["runs"], true);
    assert_eq!(found["pull"]["layers"], 1);
    let layers = testkit::busybox_layout();
    let sizes: Vec<u64> = files_below(&layers.join("blobs"))
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .collect();
    let bytes = found["pull"]["bytes"].as_u64().unwrap();
    assert!(sizes.contains(&bytes), "{bytes} in {sizes:?}");
    assert!(
        !kept(&project)
            .iter()
            .any(|path| path.starts_with(project.store().join("layers"))),
        "a plan fetches no layer"
    );
    plan(&project, &["--exit-code"]).fails(3, &[]);
}

#[test]
fn ca12_after_it_nothing_would_and_what_changed_is_named() {
    let project = project();
    project.build(&[]).ok();
    let before = kept(&project);
    let found = as_json(&project, &["--exit-code"]);
    assert_eq!(results(&found), ["HIT"; 4]);
    assert_eq!(found["pull"]["layers"], 0);

    // The stage gives the same file for another argument: what copies it stays cached once that is known.
    let argument = ["--build-arg", "N=2"];
    let found = as_json(&project, &argument);
    assert_eq!(results(&found), ["MISS", "HIT", "UNKNOWN", "UNKNOWN"]);
    let step = &found["steps"][1];
    assert_eq!(step["why"], "build arg N 1 -> 2");
    assert_eq!(step["fields"][0]["name"], "build arg N");
    assert_eq!(step["fields"][0]["new"], "2");
    plan(&project, &["--exit-code", "--build-arg", "N=2"]).fails(3, &[]);
    plan(&project, &argument).ok();

    project.write("a", "changed");
    let table = plan(&project, &[]).ok();
    let line = table
        .text()
        .lines()
        .find(|line| line.contains("COPY a /a"))
        .unwrap();
    assert!(
        line.contains("MISS") && line.ends_with("1 of 1 files changed: a (content)"),
        "{line}"
    );
    assert!(
        table.text().contains("2 cached, 1 to run, 2 not known"),
        "{}",
        table.text()
    );
    assert_eq!(kept(&project), before, "a plan writes nothing");

    project.write("a", "a");
    project.build(&argument).ok();
    plan(&project, &["--exit-code", "--build-arg", "N=2"]).ok();
    let found = as_json(&project, &["--no-cache"]);
    assert_eq!(results(&found), ["MISS"; 4]);
}

/// What a plan foresees is what a build does.
#[test]
fn a_build_does_what_was_foreseen() {
    let project = project();
    project.build(&[]).ok();
    project.write("a", "changed");
    for args in [&[][..], &["--build-arg", "N=5"]] {
        let found = as_json(&project, args);
        let built = project.build(args).ok();
        for step in found["steps"].as_array().unwrap() {
            let name = step["name"].as_str().unwrap();
            let (_, ended) = built
                .steps()
                .into_iter()
                .find(|(known, _)| known == name)
                .unwrap();
            match step["result"].as_str().unwrap() {
                "HIT" => assert_eq!(ended, "CACHED", "{name}"),
                "MISS" => assert_eq!(ended, "DONE", "{name}"),
                _ => {}
            }
        }
    }
}

#[test]
fn what_would_be_pushed() {
    let registry = FakeRegistry::start();
    let project = project();
    let name = format!("{}/app:1", registry.host());
    let flags = ["--push", "-t", &name];
    let cold = as_json(&project, &flags);
    assert_eq!(
        cold["push"][0]["repository"],
        format!("{}/app", registry.host())
    );
    assert_eq!(cold["push"][0]["layers"], 1, "the base's");
    assert_eq!(cold["push"][0]["unknownLayers"], 3);

    // Built and never sent: sizes are those before compression.
    project.build(&[]).ok();
    let built = as_json(&project, &flags);
    assert_eq!(built["push"][0]["layers"], 4);
    assert_eq!(built["push"][0]["atMost"], true);

    project.build(&flags).ok();
    let pushed = as_json(&project, &flags);
    assert_eq!(pushed["push"][0]["layers"], 0, "{pushed}");
    assert_eq!(pushed["push"][0]["atMost"], false, "{pushed}");
    let words = plan(&project, &flags).ok();
    let line = format!("to push to {}/app: nothing", registry.host());
    assert!(words.text().contains(&line), "{}", words.text());
}

#[test]
fn what_is_wrong_is_told_as_a_build_tells_it() {
    let project = Project::new("FROM scratch\nCOPY nothing /\n");
    plan(&project, &[]).fails(1, &["\"/nothing\": not found", "Dockerfile:2"]);
    let project = Project::new("FROM scratch\nNONSENSE\n");
    plan(&project, &[]).fails(1, &["NONSENSE"]);
}

#[test]
fn what_an_imported_cache_has_is_a_hit_and_would_be_pulled() {
    let (here, there) = (project(), project());
    let cache = here.path("cache");
    let to = format!("--cache-to=type=local,dest={},mode=max", cache.display());
    here.build(&[&to]).ok();
    let from = format!("--cache-from=type=local,src={}", cache.display());
    let found = as_json(&there, &[&from, "-o", "type=oci,dest=image.tar"]);
    assert_eq!(results(&found), ["HIT"; 4]);
    // The image's own layers: of COPY, COPY and RUN.
    assert!(found["pull"]["layers"].as_u64().unwrap() >= 3, "{found}");
    there.write("a", "b");
    let found = as_json(&there, &[&from]);
    assert_eq!(results(&found), ["HIT", "MISS", "UNKNOWN", "UNKNOWN"]);
}

/// What a shared cache has is told apart from what is here, with where it is, and what of it would be pulled.
#[test]
fn what_a_shared_cache_has_is_a_remote_hit() {
    let (server, registry) = (Server::start(Options::default()), FakeRegistry::start());
    let repository = format!("registry://{}/team/steps", registry.host());
    for url in [server.url(), repository] {
        let (here, there) = (project(), project());
        let flag = format!("--remote-cache={url}");
        here.build(&[&flag]).ok();
        let found = as_json(&here, &[&flag, "--exit-code"]);
        assert_eq!(results(&found), ["HIT"; 4]);
        assert_eq!(found["pull"]["layers"], 0);

        let before = kept(&there);
        let output = ["-o", "type=oci,dest=image.tar"];
        let args = [flag.as_str(), "--exit-code", output[0], output[1]];
        // Twice: a plan leaves nothing that would be taken for a result of this store.
        for _ in 0..2 {
            let found = as_json(&there, &args);
            assert_eq!(results(&found), ["REMOTE HIT"; 4], "{found}");
            let steps = found["steps"].as_array().unwrap().iter();
            let caches = steps.filter_map(|step| step["cache"].as_str());
            let name = url.trim_start_matches("registry://");
            assert_eq!(caches.filter(|it| it.contains(name)).count(), 4, "{found}");
            assert!(found["pull"]["layers"].as_u64().unwrap() >= 3, "{found}");
            assert!(found["pull"]["bytes"].as_u64().unwrap() > 0, "{found}");
        }
        let table = plan(&there, &[&flag]).ok();
        let counted = "1 cached, 4 cached elsewhere, 0 to run";
        assert!(table.text().contains(counted), "{}", table.text());
        assert!(
            kept(&there).iter().all(|path| {
                before.contains(path) || !path.starts_with(there.store().join("records"))
            }),
            "{:?}",
            kept(&there)
        );

        // What was built here is here, also where others have it.
        there.build(&[&output[..], &[&flag]].concat()).ok();
        assert!(!results(&as_json(&there, &[])).contains(&"REMOTE HIT".to_owned()));
        there.write("a", "changed");
        let found = as_json(&there, &[&flag]);
        assert_eq!(
            results(&found),
            ["REMOTE HIT", "MISS", "UNKNOWN", "UNKNOWN"],
            "{found}"
        );
        plan(&there, &[&flag, "--exit-code"]).fails(3, &[]);
    }
}
