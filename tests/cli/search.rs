//! `kiln search`, `catalog` and `tags`: what registries list.

use crate::manifest::registry;
use crate::support::Project;
use serde_json::{Value, json};
use testkit::registry::{Action, FakeRegistry, Fault};
use testkit::{DockerRegistry, RegistrySetup};

fn answers(registry: &FakeRegistry) {
    let found = json!({"num_results": 3, "query": "app", "results": [
        {"name": "library/app", "description": "x".repeat(60), "star_count": 120, "is_official": true, "is_automated": false},
        {"name": "me/app", "description": "mine\nand yours", "star_count": 3, "is_official": false, "is_automated": true},
        {"name": "you/app", "description": null, "star_count": 0, "is_official": false, "is_automated": false},
    ]});
    registry.fault(Fault::on("GET", "/v1/search").with(Action::Answer {
        status: 200,
        headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
        body: found.to_string().into_bytes(),
    }));
}

#[test]
fn it04_search_as_docker_shows_it() {
    let (registry, project) = (FakeRegistry::start(), Project::new(""));
    answers(&registry);
    let term = format!("{}/app", registry.host());
    let table = project.kiln(&["search", &term]).ok();
    let lines: Vec<&str> = table.text().lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    let words: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(words, ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]);
    assert!(lines[1].starts_with(&format!("{}/library/app", registry.host())));
    assert!(
        lines[1].contains(&format!("{}… ", "x".repeat(44))),
        "{}",
        lines[1]
    );
    assert!(
        lines[1].trim_end().ends_with("120       [OK]"),
        "{}",
        lines[1]
    );
    assert!(lines[2].contains("mine and yours"));
    let whole = project.kiln(&["search", "--no-trunc", &term]).ok();
    assert!(whole.text().contains(&"x".repeat(60)));
    let names = |args: &[&str]| {
        let mut all = vec!["search", "--format", "{{.Name}}", &term];
        all.extend(args);
        let run = project.kiln(&all).ok();
        run.text().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&["-f", "is-official=true"]).len(), 1);
    assert_eq!(names(&["--filter", "stars=3"]).len(), 2);
    assert_eq!(names(&["--filter", "stars=3,is-official=false"]).len(), 1);
    assert_eq!(names(&["--limit", "1"]).len(), 1);
    let json = project.kiln(&["search", "--format", "json", &term]).ok();
    let first: Value = serde_json::from_str(json.text().lines().next().unwrap()).unwrap();
    assert_eq!(first["StarCount"], "120");
    project
        .kiln(&["search", "--filter", "nonsense=1", &term])
        .fails(2, &["invalid filter 'nonsense=1'"]);
}

#[test]
fn it04_registries_without_a_search_and_their_lists() {
    let Some(registry_) = DockerRegistry::start(&RegistrySetup::default()) else {
        return;
    };
    let (source, project) = (registry(), Project::new(""));
    let host = registry_.host();
    for name in ["team/app:1", "team/app:2", "other/thing:1"] {
        let to = format!("{host}/{name}");
        let from = format!("{}/team/app:both", source.host());
        project.kiln(&["copy", "-q", &from, &to]).ok();
    }
    let catalog = project.kiln(&["catalog", &host]).ok();
    assert_eq!(catalog.text(), "other/thing\nteam/app");
    let name = format!("{host}/team/app");
    assert_eq!(project.kiln(&["tags", &name]).ok().text(), "1\n2");
    let searched = project
        .kiln(&["search", "--format", "{{.Name}}", &format!("{host}/app")])
        .ok();
    assert_eq!(searched.text(), name);
    assert!(
        searched
            .stderr
            .contains(&format!("note: {host} has no search")),
        "{}",
        searched.stderr
    );
    let tags = project.kiln(&["search", "--list-tags", &name]).ok();
    let lines: Vec<Vec<&str>> = tags
        .text()
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines, [["NAME", "TAG"], [&*name, "1"], [&*name, "2"]]);
    project
        .kiln(&["tags", &format!("{host}/none")])
        .fails(1, &["NAME_UNKNOWN"]);
}
