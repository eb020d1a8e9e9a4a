//! Pushes that a registry does not take: what people are told of it.

use crate::login::htpasswd;
use crate::support::Project;
use testkit::registry::{Action, FakeRegistry, Fault};
use testkit::{DockerRegistry, RegistrySetup, Scratch};

/// A project with a small image, and its name at a registry.
fn built(host: &str) -> (Project, String) {
    let name = format!("{host}/team/app:v1");
    let project = Project::new("FROM scratch\nCOPY a /a\n");
    project.write("a", "content");
    project.kiln(&["build", "-q", "-t", &name, "context"]).ok();
    (project, name)
}

#[test]
fn g01_a_push_without_a_login_says_how_to_log_in() {
    let scratch = Scratch::new();
    let setup = RegistrySetup {
        htpasswd: Some(htpasswd(scratch.path())),
        ..Default::default()
    };
    let Some(registry) = DockerRegistry::start(&setup) else {
        return;
    };
    let (project, name) = built(&registry.host());
    let login = format!("kiln login {}", registry.host());
    let repository = name.strip_suffix(":v1").unwrap();
    let says = [&format!("failed to push {repository}"), login.as_str()];
    project.kiln(&["push", &name]).fails(1, &says);
    project
        .kiln(&["build", "--push", "-t", &name, "context"])
        .fails(1, &says);
    let target = format!("docker://{name}");
    let source = format!("store:{name}");
    project.kiln(&["copy", &source, &target]).fails(1, &says);
    project.kiln(&["manifest", "create", "list", &source]).ok();
    project
        .kiln(&["manifest", "push", "list", &name])
        .fails(1, &says);
}

#[test]
fn g06_a_push_that_is_denied_says_what_the_registry_said() {
    let registry = FakeRegistry::start();
    let host = registry.host();
    let (project, name) = built(&host);
    let push = || project.kiln(&["push", &name]);
    let failed = format!("failed to push {host}/team/app");
    let denied = |status| {
        Fault::on("POST", "/blobs/uploads/").error(
            status,
            "DENIED",
            "your account may only read team/app",
        )
    };
    for status in [403, 401] {
        registry.fault(denied(status));
        let said = [
            failed.as_str(),
            "/v2/team/app/blobs/uploads/",
            &format!("{status}"),
            "your account may only read team/app",
        ];
        let login = format!("pushing mostly needs a login: `kiln login {host}`");
        push().fails(1, &said).fails(1, &[&login]);
        registry.heal();
    }
    // With a login it is another matter.
    let (guarded, other) = (FakeRegistry::start(), "team/other:1");
    guarded.require_tokens(300);
    guarded.fault(denied(403));
    let target = format!("{}/{other}", guarded.host());
    let who = format!(
        "this login may not push there: ask the repository's owner for the right to, or log in as somebody else with `kiln login {}`",
        guarded.host()
    );
    project
        .kiln(&["push", "--creds", "bob:secret", &name, &target])
        .fails(1, &["403", "your account may only read", &who]);

    // Some registries say it in plain text only, and some only once the manifest comes.
    registry.fault(Fault::on("POST", "/blobs/uploads/").with(Action::Answer {
        status: 403,
        headers: vec![("Content-Type".to_owned(), "text/plain".to_owned())],
        body: b"read-only token".to_vec(),
    }));
    push().fails(1, &[&failed, "403", "read-only token"]);
    registry.heal();
    registry.fault(Fault::on("PUT", "/manifests/").error(403, "DENIED", "tags are immutable"));
    push().fails(
        1,
        &[
            &failed,
            "/v2/team/app/manifests/v1",
            "403",
            "tags are immutable",
        ],
    );
    registry.heal();
    assert_eq!(registry.tagged("team/app", "v1"), None);
    push().ok();
}

#[test]
fn image_push_is_push() {
    let registry = FakeRegistry::start();
    let (project, name) = built(&registry.host());
    let pushed = project.kiln(&["image", "push", &name]).ok();
    assert!(pushed.text().starts_with("v1: digest: sha256:"));
    assert!(registry.tagged("team/app", "v1").is_some());
}
