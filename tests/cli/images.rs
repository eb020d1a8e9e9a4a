//! `images`, `tag`, `rmi`, `image`, `prune --filter` and `du`, as Docker users type and read them.

use crate::support::Project;
use serde_json::Value;

/// Three builds: `app:1`, `app:2` (also `registry.example:5000/team/app:2`), and one whose name went to another.
fn project() -> Project {
    let project = Project::new("FROM scratch\nARG N\nLABEL n=$N stage=test\nCOPY f /f\n");
    for (number, time, tags) in [
        ("0", "1000", vec!["moved"]),
        ("1", "2000", vec!["app:1"]),
        (
            "2",
            "3000",
            vec!["app:2", "registry.example:5000/team/app:2"],
        ),
        ("3", "4000", vec!["moved"]),
    ] {
        project.write("f", number);
        let arg = format!("N={number}");
        let epoch = format!("SOURCE_DATE_EPOCH={time}");
        let mut args = vec!["--build-arg", &arg, "--build-arg", &epoch];
        for tag in tags {
            args.extend(["-t", tag]);
        }
        project.build(&args).ok();
    }
    project
}

fn lines(project: &Project, args: &[&str]) -> Vec<String> {
    let run = project.kiln(args).ok();
    run.text().lines().map(str::to_owned).collect()
}

fn listed(project: &Project, args: &[&str]) -> Vec<String> {
    let mut all = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
    all.extend(args);
    lines(project, &all)
}

#[test]
fn lists_are_filtered_as_docker_filters_them() {
    let project = project();
    let (none, team) = ("<none>:<none>", "registry.example:5000/team/app:2");
    for (args, wanted) in [
        (&[][..], &["moved:latest", "app:2", team, "app:1", none][..]),
        (&["-a"], &["moved:latest", "app:2", team, "app:1", none]),
        (&["-f", "dangling=true"], &[none]),
        (
            &["-f", "dangling=false"],
            &["moved:latest", "app:2", team, "app:1"],
        ),
        (&["app"], &["app:2", "app:1"]),
        (&["app:1"], &["app:1"]),
        (&["a*"], &["app:2", "app:1"]),
        (&["docker.io/library/app:1"], &["app:1"]),
        (&["nothing"], &[]),
        (&["--filter", "reference=*/*/app"], &[team]),
        (
            &["--filter", "reference=registry.example:5000/*/*"],
            &[team],
        ),
        (
            &["-f", "reference=app:1", "-f", "reference=moved"],
            &["moved:latest", "app:1"],
        ),
        (&["-f", "label=n=1"], &["app:1"]),
        (&["-f", "label=stage", "-f", "label=n=3"], &["moved:latest"]),
        (&["-f", "label=none"], &[]),
        (&["-f", "since=app:1"], &["moved:latest", "app:2", team]),
        (&["-f", "before=app:2"], &["app:1", none]),
        (
            &["-f", "since=app:1", "-f", "before=moved"],
            &["app:2", team],
        ),
        (&["-f", "until=1970-01-01T00:40:00Z"], &["app:1", none]),
    ] {
        assert_eq!(listed(&project, args), wanted, "{args:?}");
    }
    for (filter, message) in [
        ("x=1", "invalid filter 'x'"),
        ("dangling=maybe", "invalid filter 'dangling=maybe'"),
        ("dangling", "bad format of filter (expected name=value)"),
        ("since=nothing", "No such image: nothing"),
    ] {
        project.kiln(&["images", "-f", filter]).fails(1, &[message]);
    }
}

#[test]
fn lists_have_the_form_that_is_asked_for() {
    let project = project();
    let ids = lines(&project, &["images", "-q", "app"]);
    assert!(ids.iter().all(|id| id.len() == 12), "{ids:?}");
    let table = lines(&project, &["images", "app:1"]);
    assert_eq!(table.len(), 2);
    let words: Vec<&str> = table[0].split_whitespace().collect();
    assert_eq!(
        words,
        ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    );
    assert!(table[1].starts_with("app          1         "), "{table:?}");
    assert!(
        table[1].contains(&ids[1]) && table[1].contains("years ago"),
        "{table:?}"
    );
    assert!(table[1].ends_with("kB"), "{table:?}");
    let digests = lines(&project, &["images", "--digests", "--no-trunc", "app:1"]);
    assert!(digests[0].contains("DIGEST") && digests[1].matches("sha256:").count() == 1);
    // It was never in a registry.
    assert!(digests[1].contains("<none>"), "{digests:?}");
    let chosen = lines(
        &project,
        &[
            "images",
            "--format",
            r"table {{.ID}}\t{{upper .Repository}}",
            "app:1",
        ],
    );
    assert_eq!(
        chosen,
        ["IMAGE ID       REPOSITORY", &format!("{}   APP", ids[1])]
    );

    let json = project.kiln(&["images", "--format", "json", "app:1"]).ok();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    for (key, value) in [
        ("Repository", "app"),
        ("Tag", "1"),
        ("ID", ids[1].as_str()),
        ("CreatedAt", "1970-01-01 00:33:20 +0000 UTC"),
        ("Containers", "N/A"),
    ] {
        assert_eq!(json[key], value, "{json}");
    }
    let tree = lines(&project, &["images", "--tree", "app:1"]);
    assert!(
        tree[1].starts_with("app:1 ") && tree[2].starts_with("└─ linux/"),
        "{tree:?}"
    );
    for (format, message) in [
        (
            "{{.Foo}}",
            "template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.imageContext",
        ),
        (
            "{{",
            "template parsing error: template: :1:0: unclosed action",
        ),
        ("{{foo}}", "function \"foo\" not defined"),
    ] {
        project
            .kiln(&["images", "--format", format])
            .fails(1, &[message]);
    }
}

#[test]
fn names_come_and_go() {
    let project = project();
    project
        .kiln(&["tag", "app:1", "other", "team/other:x"])
        .ok();
    assert_eq!(listed(&project, &["-f", "label=n=1"]).len(), 3);
    project
        .kiln(&["tag", "nothing", "x"])
        .fails(1, &["No such image: nothing"]);
    project.kiln(&["tag", "app:1", "UPPER"]).fails(
        1,
        &["\"UPPER\" is not a valid repository/tag: invalid reference format"],
    );
    let id = lines(&project, &["images", "-q", "app:1"])[0].clone();
    let whole = lines(&project, &["images", "-q", "--no-trunc", "app:1"])[0].clone();
    // A name that takes another image leaves that one dangling; one that takes it back ends that.
    project.kiln(&["tag", "app:1", "moved"]).ok();
    assert_eq!(listed(&project, &["-f", "dangling=true"]).len(), 2);

    assert_eq!(
        lines(&project, &["rmi", "other"]),
        ["Untagged: other:latest"]
    );
    project.kiln(&["rmi", &id]).fails(
        1,
        &[&format!(
            "conflict: unable to delete {id} (must be forced) - image is referenced in multiple repositories"
        )],
    );
    let mut removed = lines(&project, &["rmi", "--force", &id]);
    let deleted: Vec<String> = removed.split_off(3);
    removed.sort();
    assert_eq!(
        removed,
        [
            "Untagged: app:1",
            "Untagged: moved:latest",
            "Untagged: team/other:x"
        ]
    );
    assert_eq!(deleted[0], format!("Deleted: {whole}"));
    assert!(listed(&project, &["-f", "label=n=1"]).is_empty());

    let removed = lines(
        &project,
        &[
            "image",
            "rm",
            "--no-prune",
            "app:2",
            "registry.example:5000/team/app:2",
        ],
    );
    assert_eq!(removed[0], "Untagged: app:2");
    assert_eq!(removed[1], "Untagged: registry.example:5000/team/app:2");
    assert!(
        removed[2].starts_with("Deleted: sha256:") && removed.len() == 3,
        "{removed:?}"
    );
    project
        .kiln(&["rmi", "nothing", "app:1"])
        .fails(1, &["No such image: nothing", "No such image: app:1"]);
    // By its ID, what has no name.
    for id in lines(&project, &["images", "-q", "-f", "dangling=true"]) {
        assert!(lines(&project, &["rmi", &id])[0].starts_with("Deleted: "));
    }
    assert!(listed(&project, &[]).is_empty());
}

#[test]
fn ids_that_are_not_one_image() {
    let project = project();
    let ids = lines(&project, &["images", "-q", "--no-trunc", "app"]);
    // 18 images make two that begin with the same digit.
    for number in 10..26 {
        project.write("f", number.to_string());
        let arg = format!("N={number}");
        project
            .build(&["--build-arg", &arg, "-t", &format!("more:{number}")])
            .ok();
    }
    let all = lines(&project, &["images", "-q"]);
    let first = (0..16)
        .map(|digit| format!("{digit:x}"))
        .find(|digit| {
            let found: std::collections::BTreeSet<&String> =
                all.iter().filter(|id| id.starts_with(digit)).collect();
            found.len() > 1
        })
        .unwrap();
    project.kiln(&["inspect", &first]).fails(
        1,
        &[&format!("multiple IDs found with provided prefix: {first}")],
    );
    for id in [ids[0].as_str(), &ids[0][..20], &ids[0][7..27]] {
        let found = lines(&project, &["inspect", "-f", "{{.Id}}", id]);
        assert_eq!(found, [ids[0].as_str()]);
    }
}

#[test]
fn pruning_takes_what_has_no_name() {
    let project = project();
    let dry = project.kiln(&["prune", "--dry-run"]).ok();
    assert!(dry.text().contains("reference sha256:"), "{}", dry.text());
    assert_eq!(listed(&project, &["-f", "dangling=true"]).len(), 1);
    for filter in ["label=n=7", "label!=n=0", "until=500"] {
        project.kiln(&["prune", "--filter", filter]).ok();
        assert_eq!(
            listed(&project, &["-f", "dangling=true"]).len(),
            1,
            "{filter}"
        );
    }
    project.kiln(&["prune", "-a", "--filter", "label=n=0"]).ok();
    assert!(listed(&project, &["-f", "dangling=true"]).is_empty());
    assert_eq!(listed(&project, &[]).len(), 4);
    // A label says nothing of the cache.
    let again = project
        .build(&[
            "--build-arg",
            "N=3",
            "--build-arg",
            "SOURCE_DATE_EPOCH=4000",
        ])
        .ok();
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
    project
        .kiln(&["image", "prune", "--filter", "x=1"])
        .fails(2, &["invalid filter 'x'"]);
}

#[test]
fn what_takes_room_is_told() {
    let project = project();
    let table = lines(&project, &["du", "--summary"]);
    assert!(
        table[0].starts_with("TYPE ") && table[0].ends_with("RECLAIMABLE"),
        "{table:?}"
    );
    let of = |kind: &str, field: &str| -> String {
        let format = format!("{{{{.Type}}}}={{{{.{field}}}}}");
        let rows = lines(&project, &["du", "--summary", "--format", &format]);
        let row = rows
            .iter()
            .find_map(|row| row.strip_prefix(&format!("{kind}=")));
        row.unwrap().to_owned()
    };
    assert_eq!(of("Images", "TotalCount"), "5");
    assert_eq!(of("Images", "Active"), "4");
    // The layers as they were made, and with their times clamped.
    assert_eq!(of("Layers", "TotalCount"), "8");
    assert_eq!(of("Layers", "Active"), "3");
    assert_eq!(of("Cache mounts", "TotalCount"), "0");
    project.kiln(&["prune", "-a"]).ok();
    assert_eq!(of("Images", "TotalCount"), "4");
    assert!(of("Blobs", "Reclaimable").starts_with("0B"));
}

#[test]
fn what_takes_room_is_told_piece_by_piece() {
    let project =
        Project::new("FROM scratch AS base\nCOPY big /big\n\nFROM base\nARG N\nCOPY $N /f\n");
    for (name, size) in [("big", 300_000), ("one", 20_000), ("two", 40_000)] {
        project.write(name, vec![b'x'; size]);
    }
    for name in ["one", "two"] {
        let arg = format!("N={name}");
        project.build(&["-t", name, "--build-arg", &arg]).ok();
    }
    project.kiln(&["tag", "two", "again"]).ok();
    let store = store::Store::open(&project.store()).unwrap();
    let mount = store.cache_mount("/root/.cache\n", store::MountSharing::Shared);
    std::fs::write(mount.unwrap().path().join("f"), vec![b'x'; 100_000]).unwrap();
    drop(store);
    let shown = project.kiln(&["du", "--summary", "--verbose"]).ok();
    let text = shown.text();
    let parts: Vec<&str> = text.split(" space usage:").collect();
    assert_eq!(parts.len(), 4, "{text}");
    let row = |part: &str, name: &str| -> Vec<String> {
        let row = part.lines().find(|line| line.starts_with(name)).unwrap();
        row.split("   ")
            .map(|cell| cell.trim().to_owned())
            .filter(|cell| !cell.is_empty())
            .collect()
    };
    assert_eq!(
        row(parts[1], "REPOSITORY"),
        [
            "REPOSITORY",
            "TAG",
            "IMAGE ID",
            "CREATED",
            "SIZE",
            "SHARED SIZE",
            "UNIQUE SIZE"
        ]
    );
    let kilobytes = |cell: &String| -> f64 { cell.strip_suffix("kB").unwrap().parse().unwrap() };
    let shared = kilobytes(&row(parts[1], "one")[5]);
    assert!((300.0..310.0).contains(&shared), "{text}");
    for (name, least) in [("one", 20.0), ("two", 40.0), ("again", 40.0)] {
        let cells = row(parts[1], name);
        let unique = kilobytes(&cells[6]);
        assert!((least..least + 5.0).contains(&unique), "{text}");
        assert!((kilobytes(&cells[5]) - shared).abs() < 0.01, "{text}");
        assert!(
            (kilobytes(&cells[4]) - shared - unique).abs() < 1.0,
            "{text}"
        );
    }
    // The layer of both, which is the largest, and one of each.
    let mut used: Vec<String> = parts[2]
        .lines()
        .filter(|line| line.ends_with('1') || line.ends_with('2'))
        .map(|line| line.split_whitespace().last().unwrap().to_owned())
        .collect();
    assert_eq!(used.remove(0), "2", "{text}");
    assert_eq!(used, ["1", "1"], "{text}");
    let mount = kilobytes(&row(parts[3], r"/root/.cache\n")[1]);
    assert!((100.0..130.0).contains(&mount), "{text}");
    let whole = project.kiln(&["du", "--summary", "-v", "--no-trunc"]).ok();
    assert!(whole.text().contains("sha256:"));
}
