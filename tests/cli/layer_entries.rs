//! What the layers of RUN steps hold, entry by entry, where builders differ; docs/compatibility.md has what others write.

use crate::support::{Project, able, is_root};
use std::path::Path;
use testkit::{Kind, TarEntry};

/// An entry as a line: name, kind, mode, owner, times that the step itself set.
fn line(entry: &TarEntry) -> String {
    let kind = match entry.kind {
        Kind::File => format!("file of {}", entry.size),
        Kind::Dir => "folder".to_owned(),
        Kind::Hardlink => format!("link to {}", entry.link.as_deref().unwrap_or_default()),
        ref other => format!("{other:?}"),
    };
    let set = !(1_500_000_000..5_000_000_000).contains(&entry.mtime);
    let time = if set {
        format!(" at {}", entry.mtime)
    } else {
        String::new()
    };
    assert_eq!((entry.uname.as_str(), entry.gname.as_str()), ("", ""));
    assert!(!entry.mtime_fraction, "{}", entry.path);
    assert!(entry.xattrs.is_empty(), "{}", entry.path);
    format!(
        "{} {kind} {:o} {}:{}{time}",
        entry.path, entry.mode, entry.uid, entry.gid
    )
}

/// The layers of a layout after the base's, each by its entries.
fn layers(layout: &Path) -> Vec<Vec<String>> {
    let manifest = testkit::manifest_of(layout, "latest").unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter().skip(1);
    let entries = layers.map(|layer| {
        let digest = layer["digest"].as_str().unwrap().replace(':', "/");
        let entries = testkit::tar_entries(&layout.join("blobs").join(digest)).unwrap();
        entries.iter().map(line).collect()
    });
    entries.collect()
}

/// A step and the entries of its layer.
const STEPS: [(&str, &[&str]); 9] = [
    (
        "mkdir -p /srv/d/sub && echo a > /srv/d/a && echo c > /srv/d/sub/c && echo l > /srv/l1",
        &[
            "srv folder 755 0:0",
            "srv/d folder 755 0:0",
            "srv/d/a file of 2 644 0:0",
            "srv/d/sub folder 755 0:0",
            "srv/d/sub/c file of 2 644 0:0",
            "srv/l1 file of 2 644 0:0",
        ],
    ),
    // Two whiteouts are one inode of an overlay, and yet no hard link of each other.
    (
        "rm /etc/os-release /etc/group",
        &[
            "etc folder 755 0:0",
            "etc/.wh.group file of 0 0 0:0 at 0",
            "etc/.wh.os-release file of 0 0 0:0 at 0",
        ],
    ),
    // A folder in the place of another.
    (
        "rm -r /srv/d && mkdir -p /srv/d/sub && echo new > /srv/d/new",
        &[
            "srv folder 755 0:0",
            "srv/d folder 755 0:0",
            "srv/d/.wh.a file of 0 0 0:0 at 0",
            "srv/d/new file of 4 644 0:0",
            "srv/d/sub folder 755 0:0",
            "srv/d/sub/.wh.c file of 0 0 0:0 at 0",
        ],
    ),
    // Ids that the host may have names for.
    (
        "touch /owned && chown 1000:1000 /owned",
        &["owned file of 0 644 1000:1000"],
    ),
    // Nothing of what the sandbox mounts.
    ("test -f /etc/hosts && test -d /sys", &[]),
    // Full seconds, before 1970 and after 2242.
    (
        "touch -d @1000.5 /t1 2>/dev/null || touch -d @1000 /t1",
        &["t1 file of 0 644 0:0 at 1000"],
    ),
    (
        "touch -d '1965-01-25 00:00:00' /past && touch -d '2300-01-01 00:00:00' /future",
        &[
            "future file of 0 644 0:0 at 10413792000",
            "past file of 0 644 0:0 at -155692800",
        ],
    ),
    (
        "touch \"/$(printf '\\377\\376')\" \"/$(printf 'new\\nline')\"",
        &[
            "new\nline file of 0 644 0:0",
            "\\xff\\xfe file of 0 644 0:0",
        ],
    ),
    // A file of the layers below and its new name stay one file.
    (
        "ln /srv/l1 /srv/l2",
        &[
            "srv folder 755 0:0",
            "srv/l1 file of 2 644 0:0",
            "srv/l2 link to srv/l1 644 0:0",
        ],
    ),
];

/// RU01: rows of docs/compatibility.md.
#[test]
fn ru01_layers_hold_what_steps_did() {
    let mut dockerfile = "FROM busybox\n".to_owned();
    for (script, _) in STEPS {
        dockerfile += &format!("RUN {script}\n");
    }
    let project = Project::new(&dockerfile);
    let found = layers(&project.valid_layout("layout", &[]));
    assert_eq!(found.len(), STEPS.len());
    for ((script, expected), found) in STEPS.iter().zip(found) {
        assert_eq!(&found, expected, "{script}");
    }
}

/// RU01: ids that no ustar header holds.
#[test]
fn ru01_layers_hold_large_ids() {
    if !able(is_root(), "root, to have ids above 65535") {
        return;
    }
    let project = Project::new("FROM busybox\nRUN touch /big && chown 3000000:3000001 /big\n");
    let found = layers(&project.valid_layout("layout", &[]));
    assert_eq!(found, [["big file of 0 644 3000000:3000001"]]);
}

/// RU01: a file that would hide another from the next step on, and in the image.
#[test]
fn ru01_names_of_whiteouts_are_refused() {
    let project = Project::new("FROM busybox\nRUN touch /etc/.wh.passwd\nRUN cat /etc/passwd\n");
    let refused = [
        "/etc/.wh.passwd: names that begin with `.wh.` are whiteouts to every image reader",
        ">>> RUN touch /etc/.wh.passwd",
    ];
    project.build(&[]).fails(1, &refused);
}
