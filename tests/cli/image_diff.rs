//! `diff`: two images by file, and by config.

use crate::support::{Project, is_root};
use serde_json::Value;

fn lines(project: &Project, args: &[&str]) -> Vec<String> {
    let run = project.kiln(args).ok();
    run.text().lines().map(str::to_owned).collect()
}

#[test]
fn files_are_compared() {
    let project = Project::new(
        "FROM busybox AS base\nCOPY --chmod=644 tree /tree\nRUN ln -s kept /tree/link && ln /tree/kept /tree/hard\nENV A=b\nCMD [\"x\"]\n\
         FROM base AS new\nRUN rm -r /tree/gone && chmod 600 /tree/mode && echo more >> /tree/content && mkdir -p /tree/more/deep && \
         echo n > /tree/more/deep/file && ln -sf other /tree/link && rm /tree/type && mkdir /tree/type && touch -d @5 /tree/time\n\
         ENV B=c\nLABEL k=v\nCMD [\"y\"]\n",
    );
    for name in [
        "kept", "mode", "content", "type", "time", "gone/a", "gone/b/c",
    ] {
        project.write(&format!("tree/{name}"), name);
    }
    project.build(&["-t", "old", "--target", "base"]).ok();
    project.build(&["-t", "new"]).ok();

    let changes = lines(&project, &["diff", "old", "new"]);
    assert_eq!(
        changes,
        [
            "C /tree",
            "C /tree/content",
            "D /tree/gone",
            "C /tree/link",
            "C /tree/mode",
            "A /tree/more",
            "A /tree/more/deep",
            "A /tree/more/deep/file",
            "C /tree/type",
        ]
    );
    let times = lines(&project, &["diff", "--times", "old", "new"]);
    assert!(times.contains(&"C /tree/time".to_owned()), "{times:?}");
    let back = lines(&project, &["diff", "new", "old"]);
    assert!(
        back.contains(&"A /tree/gone/b/c".to_owned()) && back.contains(&"D /tree/more".to_owned())
    );
    assert!(lines(&project, &["diff", "old", "old"]).is_empty());

    let json: Vec<Value> = lines(&project, &["diff", "--format", "json", "old", "new"])
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(json[1]["Path"], "/tree/content");
    assert_eq!(json[1]["Differs"], "content");
    assert_eq!(json[1]["OldSize"], 7);
    assert_eq!(json[1]["NewSize"], 12);
    assert_eq!(json[4]["Differs"], "mode");
    assert_eq!(json[8]["Differs"], "type,mode");
    let table = lines(&project, &["diff", "--format", "table", "old", "new"]);
    assert!(table[0].starts_with("CHANGE TYPE   PATH"), "{table:?}");

    // Nothing was unpacked for it: an image that is only loaded has no trees.
    project.kiln(&["save", "-o", "both.tar", "old", "new"]).ok();
    let other = Project::new("");
    other
        .kiln(&["load", "-i", project.path("both.tar").to_str().unwrap()])
        .ok();
    assert_eq!(lines(&other, &["diff", "old", "new"]), changes);
    let layers = std::fs::read_dir(other.store().join("layers/sha256")).unwrap();
    for layer in layers {
        assert!(!layer.unwrap().path().join("tree").exists());
    }
    project
        .kiln(&["diff", "old", "nothing"])
        .fails(1, &["No such image: nothing"]);
    project.kiln(&["diff", "old"]).fails(2, &["IMAGE2"]);

    let config = lines(&project, &["diff", "--config", "old", "new"]);
    assert!(
        config.contains(&"C Config.Cmd: [\"x\"] -> [\"y\"]".to_owned()),
        "{config:?}"
    );
    assert!(
        config.contains(&"A Config.Labels.k: null -> \"v\"".to_owned()),
        "{config:?}"
    );
    assert!(
        config.iter().any(|line| line.starts_with("C Config.Env: ")),
        "{config:?}"
    );
    assert!(!config.iter().any(|line| line.contains("Os")), "{config:?}");
}

#[test]
fn owners_are_compared() {
    let project =
        Project::new("FROM scratch AS base\nCOPY f /f\nFROM scratch\nCOPY --chown=7:8 f /f\n");
    project.write("f", "x");
    project.build(&["-t", "old", "--target", "base"]).ok();
    project.build(&["-t", "new"]).ok();
    let told = lines(
        &project,
        &["diff", "--format", "{{.Path}} {{.Differs}}", "old", "new"],
    );
    assert_eq!(told, ["/f owner"], "root: {}", is_root());
}

/// Two builds of one Dockerfile whose RUN writes what is never the same.
#[test]
fn the_first_difference_is_named() {
    let project = Project::new(
        "FROM busybox\nCOPY f /f\nRUN mkdir /d && echo same > /d/a\nRUN (echo made; cat /proc/sys/kernel/random/uuid) > /d/id && touch /d/z\nRUN cat /proc/sys/kernel/random/uuid > /later\n",
    );
    project.write("f", "x");
    for name in ["one", "two"] {
        project.build(&["-t", name, "--no-cache"]).ok();
    }
    let text = lines(&project, &["diff", "--first", "one", "two"]);
    assert_eq!(text.len(), 2, "{text:?}");
    assert!(
        text[0].starts_with("layer 4: RUN /bin/sh -c (echo made; cat "),
        "{text:?}"
    );
    assert!(
        text[1].starts_with("/d/id: content differs from byte "),
        "{text:?}"
    );
    assert!(text[1].contains(" on (42 -> 42 bytes): \""), "{text:?}");
    let json = lines(
        &project,
        &["diff", "--first", "--format", "json", "one", "two"],
    );
    let json: Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(
        (&json["Layer"], &json["Path"]),
        (&4.into(), &"/d/id".into())
    );
    assert_eq!(json["Differs"], "content");
    let byte = json["Byte"].as_u64().unwrap();
    assert!((5..25).contains(&byte), "{json}");
    let side = |key: &str| json[key].as_str().unwrap().to_owned();
    assert_ne!(side("Old")[..1], side("New")[..1], "{json}");
    assert_eq!(
        (&json["OldSize"], &json["NewSize"]),
        (&42.into(), &42.into())
    );
    assert!(lines(&project, &["diff", "--first", "one", "one"]).is_empty());
    assert!(
        lines(
            &project,
            &["diff", "--first", "--format", "json", "one", "one"]
        )
        .is_empty()
    );
}

#[test]
fn attributes_times_layers_and_configs_are_first_differences_too() {
    let project = Project::new(
        "FROM busybox AS base\nRUN touch -d @5 /f && chmod 600 /f\nFROM busybox AS mode\nRUN touch -d @5 /f\n\
         FROM busybox AS time\nRUN touch -d @6 /f && chmod 600 /f\nFROM base AS more\nRUN touch /g\nFROM base AS label\nLABEL a=b\n",
    );
    for target in ["base", "mode", "more", "label", "time"] {
        project.build(&["-t", target, "--target", target]).ok();
    }
    let first = |new: &str| lines(&project, &["diff", "--first", "base", new]);
    assert_eq!(first("mode")[1], "/f: mode 600 -> 644");
    assert_eq!(
        first("mode")[0],
        "layer 2: RUN /bin/sh -c touch -d @5 /f && chmod 600 /f # buildkit -> RUN /bin/sh -c touch -d @5 /f # buildkit"
    );
    assert_eq!(first("more")[1], "only in the second image");
    assert_eq!(first("label"), ["config: Config.Labels.a: null -> \"b\""]);
    // A command that gives the same but for times takes the layer that is there.
    let time = first("time");
    assert!(
        !time.iter().any(|line| line.starts_with("layer")),
        "{time:?}"
    );
    project
        .kiln(&["diff", "--first", "--times", "base", "mode"])
        .fails(2, &["--first"]);
}
