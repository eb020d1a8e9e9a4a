//! The examples that need nothing but the base that ships build without a network.

use crate::support::{Project, with_busybox};
use std::fs;

fn example(project: &Project, name: &str, args: &[&str]) {
    let mut command = project.command(&["build", "--progress", "plain"]);
    command.args(with_busybox()).args(args);
    command.arg(testkit::workspace_root().join("examples").join(name));
    project.run(command).ok();
}

#[test]
fn static_site() {
    let project = Project::new("");
    example(
        &project,
        "static-site",
        &["-t", "site", "-o", "type=oci,tar=false,dest=out"],
    );
    testkit::validate(&project.path("out")).unwrap();
    let tree = testkit::merged_tree(&project.path("out"), "latest").unwrap();
    assert!(tree.contains_key("var/www/index.html") && tree.contains_key("etc/httpd.conf"));
    assert!(!tree.keys().any(|path| path.contains("drafts")));
}

/// CLI:target, CLI:output.
#[test]
fn generated_site() {
    let project = Project::new("");
    example(
        &project,
        "generated-site",
        &["-t", "site", "-o", "type=oci,tar=false,dest=out"],
    );
    testkit::validate(&project.path("out")).unwrap();
    let args = ["--target", "files", "-o", "type=local,dest=pages"];
    example(&project, "generated-site", &args);
    let index = fs::read_to_string(project.path("pages/index.html")).unwrap();
    assert!(index.contains("Notes from the kiln"), "{index}");
    let args = [
        "--target",
        "files",
        "-o",
        "pages",
        "--build-arg",
        "TITLE=Other notes",
    ];
    example(&project, "generated-site", &args);
    let index = fs::read_to_string(project.path("pages/index.html")).unwrap();
    assert!(index.contains("Other notes"), "{index}");
}
