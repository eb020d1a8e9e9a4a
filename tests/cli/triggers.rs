//! ONBUILD: what an image asks of the builds on top of it.

use crate::support::{Project, with_busybox};
use serde_json::Value;

/// Builds an image into the store under a name, then one on top; the second one's output in a folder.
fn on_top(base: &str, top: &str) -> (Project, crate::support::Run) {
    let project = Project::new(base);
    let [flag, layout] = with_busybox();
    project.build(&[&flag, &layout, "-t", "base"]).ok();
    project.write("Dockerfile", top);
    let output = format!("type=local,dest={}", project.path("out").display());
    let run = project.build(&[&flag, &layout, "-o", &output]);
    (project, run)
}

fn read(project: &Project, path: &str) -> String {
    std::fs::read_to_string(project.path("out").join(path)).unwrap()
}

/// `config` of the only image in a layout folder.
fn config(layout: &std::path::Path) -> Value {
    let json = |path: &std::path::Path| -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
        json(&layout.join("blobs").join(digest))
    };
    let index = json(&layout.join("index.json"));
    blob(&blob(&index["manifests"][0])["config"])["config"].clone()
}

#[test]
fn ob01_triggers_are_kept_run_in_order_and_cleared() {
    let project = Project::new("FROM scratch\nONBUILD copy a /one\nOnBuild ENV x=1 y=2\n");
    project.write("a", "1");
    project.build(&["-t", "base"]).ok();
    let layout = project.valid_layout("base", &[]);
    assert_eq!(
        config(&layout)["OnBuild"],
        serde_json::json!(["copy a /one", "ENV x=1 y=2"])
    );
    project.write("Dockerfile", "FROM base\nCOPY a /two$y\n");
    let layout = project.valid_layout("top", &[]);
    let found = config(&layout);
    assert_eq!(found["OnBuild"], Value::Null);
    let env = found["Env"].as_array().unwrap();
    assert_eq!(env[env.len() - 2..], ["x=1", "y=2"]);
    let output = format!("type=local,dest={}", project.path("out").display());
    project.build(&["-o", &output]).ok();
    assert_eq!(
        (read(&project, "one"), read(&project, "two2")),
        ("1".into(), "1".into())
    );
}

#[test]
fn ob02_chains_and_instructions_of_the_file_are_no_triggers() {
    for (trigger, says) in [
        (
            "ONBUILD ENV a=b",
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("FROM scratch", "FROM isn't allowed as an ONBUILD trigger"),
        (
            "MAINTAINER me",
            "MAINTAINER isn't allowed as an ONBUILD trigger",
        ),
        ("", "ONBUILD requires at least one argument"),
    ] {
        let project = Project::new(&format!("FROM scratch\nONBUILD {trigger}\n"));
        project.build(&[]).fails(1, &[says]);
    }
}

#[test]
fn ob03_stages_that_triggers_name_are_those_of_the_build_on_top() {
    let base = "FROM busybox\nONBUILD COPY --from=side /made /got\n\
                ONBUILD RUN --mount=from=side,target=/in cat /in/made /in/made > /twice\n";
    let top = "FROM busybox AS side\nRUN echo -n side > /made\nFROM base AS mid\n\
               FROM scratch\nCOPY --from=mid /got /twice /\n";
    let (project, run) = on_top(base, top);
    run.ok();
    assert_eq!(read(&project, "got"), "side");
    assert_eq!(read(&project, "twice"), "sideside");
    // In the same file too.
    let inherited = "FROM busybox AS src\nRUN echo -n 12 > /in\nFROM busybox AS base\n\
                     ONBUILD COPY --from=src /in /out/foo\nFROM base AS mid\nRUN cp /out/foo /out/bar\n\
                     FROM scratch\nCOPY --from=mid /out/bar /\n";
    let (project, run) = on_top("FROM scratch\n", inherited);
    run.ok();
    assert_eq!(read(&project, "bar"), "12");
    let (_, run) = on_top(base, "FROM base\n");
    run.fails(1, &["side"]);
}

#[test]
fn ob04_triggers_with_heredocs() {
    let base = "FROM busybox\nONBUILD RUN <<EOF\necho hello\necho world > /dest\nEOF\n\
                ONBUILD COPY <<-\"one\" <<two /files/\n\t$x\n\tone\ntwo\ntwo\n";
    let base = base.replace("two\ntwo\n", "text of $PATH\ntwo\n");
    let top = "FROM base AS made\nFROM scratch\nCOPY --from=made /dest /files /\n";
    let (project, run) = on_top(&base, top);
    let run = run.ok();
    assert!(run.stderr.contains("hello"), "{}", run.stderr);
    assert_eq!(read(&project, "dest"), "world\n");
    assert_eq!(read(&project, "one"), "$x\n");
    assert!(read(&project, "two").starts_with("text of /usr/local/sbin:"));
}
