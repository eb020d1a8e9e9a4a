//! What names stand for and where they are pulled from: registries.conf with its drop-ins, mirrors, policy.json.

use crate::registries::{project, tar};
use crate::support::{Project, Run};
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::registry::{FakeRegistry, Fault, sha256};
use testkit::{DockerRegistry, RegistrySetup};

/// Runs with configuration files below `config/containers` of the project.
fn configured(project: &Project, files: &[(&str, String)], args: &[&str]) -> Run {
    for (name, text) in files {
        project.write(&format!("../config/containers/{name}"), text);
    }
    project.run(with_config(project, project.command(args)))
}

fn with_config(project: &Project, mut command: Command) -> Command {
    command.env("XDG_CONFIG_HOME", project.path("config"));
    command.env("XDG_CACHE_HOME", project.path("cache"));
    command
}

/// A registry that stands for others: their repositories are below their names in it.
fn stands_for(registry: &FakeRegistry, hosts: &[&str]) -> String {
    let entry = |host: &&str| {
        let at = registry.host();
        format!("[[registry]]\nprefix = \"{host}\"\nlocation = \"{at}/{host}\"\n")
    };
    hosts.iter().map(entry).collect()
}

fn put(registry: &FakeRegistry, name: &str) {
    let (repository, tag) = name.split_once(':').unwrap();
    registry.put_image(repository, Some(tag), "amd64", &[tar("name", name)]);
}

#[test]
fn g08_short_names_go_through_aliases_and_search_registries() {
    let registry = FakeRegistry::start();
    let hosts = ["docker.io", "one.test", "two.test"];
    let main = stands_for(&registry, &hosts);
    for name in [
        "docker.io/library/plain:latest",
        "one.test/aliased:1",
        "two.test/only/here:latest",
        "one.test/both:latest",
        "two.test/both:latest",
        "two.test/team/recorded:latest",
    ] {
        put(&registry, name);
    }
    let conf = |text: &str| ("registries.conf", format!("{text}\n{main}"));
    let search = "unqualified-search-registries = [\"one.test\", \"two.test\"]\n";
    let pull =
        |files: &[(&str, String)], name: &str| configured(&project(), files, &["pull", "-q", name]);
    // Nothing configured: Docker's registry.
    assert_eq!(
        pull(&[conf("")], "plain").ok().text(),
        "docker.io/library/plain:latest"
    );
    // Drop-ins add aliases, a later one wins, an empty one takes back, and tags stay.
    let aliases = [
        conf(""),
        (
            "registries.conf.d/10-a.conf",
            "[aliases]\n\"short\" = \"two.test/wrong\"\n\"plain\" = \"two.test/wrong\"\n"
                .to_owned(),
        ),
        (
            "registries.conf.d/20-b.conf",
            "[aliases]\n\"short\" = \"one.test/aliased\"\n\"plain\" = \"\"\n".to_owned(),
        ),
        ("registries.conf.d/ignored.txt", "not toml".to_owned()),
    ];
    assert_eq!(pull(&aliases, "short:1").ok().text(), "one.test/aliased:1");
    assert_eq!(
        pull(&aliases, "plain").ok().text(),
        "docker.io/library/plain:latest"
    );
    // Search registries in their order.
    for mode in ["permissive", "disabled"] {
        let files = [conf(&format!("{search}short-name-mode = \"{mode}\""))];
        assert_eq!(pull(&files, "both").ok().text(), "one.test/both:latest");
        assert_eq!(
            pull(&files, "only/here").ok().text(),
            "two.test/only/here:latest"
        );
        pull(&files, "nowhere").fails(
            1,
            &[
                "any of its registries",
                "one.test/nowhere",
                "two.test/nowhere",
            ],
        );
    }
    let enforcing = [conf(&format!("{search}short-name-mode = \"enforcing\""))];
    pull(&enforcing, "both").fails(1, &["cannot prompt without a TTY", "one.test, two.test"]);
    assert_eq!(
        pull(&enforcing, "one.test/both").ok().text(),
        "one.test/both:latest"
    );
    // A drop-in that changes the mode alone leaves the rest.
    let changed = [
        enforcing[0].clone(),
        (
            "registries.conf.d/mode.conf",
            "short-name-mode = \"permissive\"\n".to_owned(),
        ),
    ];
    assert_eq!(pull(&changed, "both").ok().text(), "one.test/both:latest");
    let broken = [
        conf(""),
        (
            "registries.conf.d/x.conf",
            "[[registry]]\n\nblocked = true\n".to_owned(),
        ),
    ];
    pull(&broken, "plain").fails(1, &["x.conf:1", "needs a prefix or a location"]);
}

#[test]
fn g08_a_base_by_a_short_name_is_what_it_is_to_pulls() {
    let registry = FakeRegistry::start();
    put(&registry, "one.test/aliased:latest");
    let main = stands_for(&registry, &["one.test"]);
    let project = Project::new("FROM short\n");
    project.write("../config/containers/registries.conf", &main);
    let alias = "[aliases]\n\"short\" = \"one.test/aliased\"\n";
    project.write("../config/containers/registries.conf.d/a.conf", alias);
    let out = project.path("out");
    let build = || {
        let mut command = project.command(&["build", "-o", out.to_str().unwrap(), "context"]);
        command.env("XDG_CONFIG_HOME", project.path("config"));
        project.run(command)
    };
    build().ok();
    assert_eq!(
        std::fs::read_to_string(out.join("name")).unwrap(),
        "one.test/aliased:latest"
    );
    let asked = registry.requests().len();
    build().ok();
    assert_eq!(
        registry.requests().len(),
        asked,
        "the store has it under its full name"
    );
    // An image of that very name goes before.
    project.write("Other", "FROM scratch\nCOPY Other /own\n");
    project
        .kiln(&["build", "-t", "short", "-f", "context/Other", "context"])
        .ok();
    build().ok();
    assert!(out.join("own").exists());
}

#[test]
fn g07_mirrors_go_first_and_dead_ones_cost_one_try() {
    let upstream = FakeRegistry::start();
    let mirror = FakeRegistry::start();
    for registry in [&upstream, &mirror] {
        registry.put_image("team/app", Some("1"), "amd64", &[tar("a", "same")]);
    }
    upstream.put_image("team/late", Some("1"), "amd64", &[tar("a", "late")]);
    let digest = upstream.put_image("team/digest", Some("1"), "amd64", &[tar("a", "digest")]);
    mirror.put_image("team/digest", Some("1"), "amd64", &[tar("a", "digest")]);
    let dead = "127.0.0.1:1";
    let conf = |mirrors: &[(&str, &str)]| {
        let mut text = format!(
            "[[registry]]\nprefix = \"up.test/x\"\nlocation = \"{}/team\"\n",
            upstream.host()
        );
        for (at, more) in mirrors {
            text += &format!("[[registry.mirror]]\nlocation = \"{at}/team\"\n{more}\n");
        }
        [("registries.conf", text)]
    };
    let host = mirror.host();
    let started = Instant::now();
    let files = conf(&[(dead, ""), (&host, "")]);
    let run = configured(&project(), &files, &["pull", "-q", "up.test/x/app:1"]).ok();
    assert_eq!(run.text(), "up.test/x/app:1");
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(mirror.count("GET", "/manifests/1"), 1);
    // What the mirror does not have comes from the registry.
    configured(&project(), &files, &["pull", "-q", "up.test/x/late:1"]).ok();
    assert_eq!(upstream.count("GET", "/v2/team/late/"), 3);
    // A mirror for digests alone.
    let files = conf(&[(&host, "pull-from-mirror = \"digest-only\"")]);
    let before = mirror.requests().len();
    let by_tag = mirror.count("GET", "/manifests/1");
    configured(&project(), &files, &["pull", "-q", "up.test/x/late:1"]).ok();
    assert_eq!(mirror.count("GET", "/manifests/1"), by_tag);
    let by_digest = format!("up.test/x/digest@{digest}");
    configured(&project(), &files, &["pull", "-q", &by_digest]).ok();
    assert!(mirror.requests().len() > before);
    // A mirror that lies about a layer is left, and the pull goes on with the registry.
    mirror.fault(
        Fault::on("GET", &sha256(&tar("a", "same"))).with(testkit::registry::Action::Corrupt),
    );
    let files = conf(&[(&host, "")]);
    configured(&project(), &files, &["pull", "-q", "up.test/x/app:1"]).ok();
}

#[test]
fn g07_blocked_and_rejected_images_are_not_asked_for() {
    let registry = FakeRegistry::start();
    put(&registry, "team/app:1");
    let host = registry.host();
    let blocked = format!("[[registry]]\nprefix = \"{host}/team\"\nblocked = true\n");
    let name = format!("{host}/team/app:1");
    configured(
        &project(),
        &[("registries.conf", blocked)],
        &["pull", &name],
    )
    .fails(1, &["is blocked in registries.conf"]);
    let policy = format!(
        r#"{{"default": [{{"type": "insecureAcceptAnything"}}],
            "transports": {{"docker": {{"{host}/team": [{{"type": "reject"}}]}}}}}}"#
    );
    configured(&project(), &[("policy.json", policy)], &["pull", &name])
        .fails(1, &["Source image rejected", "is rejected by policy"]);
    assert_eq!(registry.requests().len(), 0);
}

#[test]
fn g07_a_pull_through_mirror_of_debians_registry_works() {
    let upstream = FakeRegistry::start();
    let layer = tar("a", vec![7; 100_000]);
    let digest = upstream.put_image(
        "library/app",
        Some("latest"),
        "amd64",
        std::slice::from_ref(&layer),
    );
    let setup = RegistrySetup {
        mirror_of: Some(upstream.url()),
        ..RegistrySetup::default()
    };
    let Some(mirror) = DockerRegistry::start(&setup) else {
        return;
    };
    let conf = format!(
        "[[registry]]\nprefix = \"docker.io\"\nlocation = \"127.0.0.1:1\"\n\
         [[registry.mirror]]\nlocation = \"{}\"\n",
        mirror.host()
    );
    let files = [("registries.conf", conf)];
    for _ in 0..2 {
        let project = project();
        let run = configured(&project, &files, &["pull", "app"]).ok();
        assert!(
            run.stderr.contains(&format!("Digest: {digest}")),
            "{}",
            run.stderr
        );
        assert_eq!(run.text(), "docker.io/library/app:latest");
        assert_eq!(project.images(), ["docker.io/library/app:latest"]);
    }
    let direct = |request: &testkit::registry::Received| {
        let agent = request.header("user-agent");
        agent.is_some_and(|agent| agent.starts_with("kiln"))
    };
    assert!(!upstream.requests().iter().any(direct));
    assert!(upstream.count("GET", &sha256(&layer)) >= 1);
}
