//! Where requests count and not bytes: more tags of an image that is there, and a two-platform index.

use crate::bench::content;
use crate::bench::place::{Place, script_of, write};
use crate::bench::race::{self, Bytes, Contestant, Part};
use crate::shell;
use std::path::Path;
use std::process::Command;

const TAGS: usize = 10;
const PLATFORMS: [&str; 2] = ["--platform", "linux/amd64,linux/arm64"];
const INDEX_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Ten more tags of an image whose blobs are there, then the same ten once more.
pub fn repush(place: &Place) -> Result<(), String> {
    let dir = place.path("small");
    content::write(&dir.join("data"), 20, |_| 50_000)?;
    write(
        &dir.join("Dockerfile"),
        "FROM scratch\nCOPY data /data\nCOPY Dockerfile /\n",
    )?;
    place.target.clear()?;
    let first = reference(place, "first");
    shell::output(
        place
            .kiln("small", &["build", "-q", "-t", &first])
            .arg(&dir),
    )?;
    let output = format!("type=image,name={first},push=true,compression=gzip");
    shell::output(
        place
            .kiln("small", &["build", "-q", "-o", &output])
            .arg(&dir),
    )?;
    let mut list = vec![
        one_build(place),
        Contestant {
            name: "kiln push, ten processes".to_owned(),
            prepare: Box::new(|| {
                for number in 0..TAGS {
                    let name = reference(place, &format!("each{number}"));
                    shell::output(&mut place.kiln("small", &["tag", &first, &name]))?;
                }
                Ok(())
            }),
            work: Box::new(|| {
                let command = |n| {
                    place.kiln(
                        "small",
                        &["push", "-q", &reference(place, &format!("each{n}"))],
                    )
                };
                (0..TAGS).map(command).collect()
            }),
            daemon: None,
        },
        Contestant {
            name: "limit: 10 HEAD and 10 PUT, one curl".to_owned(),
            prepare: Box::new(|| Ok(())),
            work: Box::new(|| vec![requests(place, "bare", true)]),
            daemon: None,
        },
    ];
    list.extend(peers(place, &first, &dir)?);
    race::run(
        place,
        Part::new("W9: ten more tags of an image that is there", Some(0.1)),
        list,
        5,
        Bytes::Uncounted,
    )?;
    let again = vec![
        one_build(place),
        Contestant {
            name: "limit: 10 HEAD, one curl".to_owned(),
            prepare: Box::new(|| Ok(())),
            work: Box::new(|| vec![requests(place, "bare", false)]),
            daemon: None,
        },
    ];
    race::run(
        place,
        Part::new("ten tags that are there", None),
        again,
        5,
        Bytes::Uncounted,
    )
}

/// Ten names of one build.
fn one_build(place: &Place) -> Contestant<'_> {
    Contestant {
        name: "kiln build --push, ten tags".to_owned(),
        prepare: Box::new(|| Ok(())),
        work: Box::new(move || {
            let mut command = place.kiln("small", &["build", "-q", "--push"]);
            for number in 0..TAGS {
                command.args(["-t", &reference(place, &format!("kiln{number}"))]);
            }
            command.arg(place.path("small"));
            vec![command]
        }),
        daemon: None,
    }
}

fn reference(place: &Place, tag: &str) -> String {
    format!("{}/small:{tag}", place.target.host())
}

/// The requests that ten tags need, by one process on one connection.
fn requests(place: &Place, prefix: &str, with_put: bool) -> Command {
    let base = format!("http://{}/v2/small/manifests", place.target.host());
    let manifest = place.path("manifest.json");
    let mut script = format!(
        "[ -e '{0}' ] || curl -s -H 'Accept: {INDEX_TYPE}' {base}/first > '{0}'; curl -s -o /dev/null",
        manifest.display()
    );
    for number in 0..TAGS {
        script.push_str(&format!(
            " -I -H 'Accept: {INDEX_TYPE}' {base}/{prefix}{number} --next -s -o /dev/null"
        ));
        if with_put {
            script.push_str(&format!(
                " -X PUT -H 'Content-Type: {INDEX_TYPE}' --data-binary '@{}' {base}/{prefix}{number} --next -s -o /dev/null",
                manifest.display()
            ));
        }
    }
    script.push_str(&format!(" http://{}/v2/", place.target.host()));
    script_of(&script)
}

fn peers<'a>(place: &'a Place, first: &'a str, dir: &Path) -> Result<Vec<Contestant<'a>>, String> {
    let mut list = Vec::new();
    let mut ten = |name: &str, command: Box<dyn Fn(&str) -> Command + 'a>| {
        list.push(Contestant {
            name: name.to_owned(),
            prepare: Box::new(|| Ok(())),
            work: Box::new(move || {
                (0..TAGS)
                    .map(|n| command(&reference(place, &format!("p{n}"))))
                    .collect()
            }),
            daemon: None,
        });
    };
    if place.tools.skopeo().is_some() {
        ten(
            "skopeo copy, ten processes",
            Box::new(move |to| {
                let mut command = place.tools.skopeo().expect("BUG: it was there");
                command.args([
                    "copy",
                    "-q",
                    "--src-tls-verify=false",
                    "--dest-tls-verify=false",
                ]);
                command
                    .arg(format!("docker://{first}"))
                    .arg(format!("docker://{to}"));
                command
            }),
        );
    }
    if let Some(mut pull) = place.tools.containers("buildah") {
        shell::output(pull.args(["pull", "-q", "--tls-verify=false", first]))?;
        ten(
            "buildah push, ten processes",
            Box::new(move |to| {
                let mut command = place
                    .tools
                    .containers("buildah")
                    .expect("BUG: it was there");
                command
                    .args(["push", "-q", "--tls-verify=false", first])
                    .arg(format!("docker://{to}"));
                command
            }),
        );
    }
    if place.tools.crane().is_some() {
        ten(
            "crane copy, ten processes",
            Box::new(move |to| {
                let mut command = place.tools.crane().expect("BUG: it was there");
                command.args(["copy", "--insecure", first, to]);
                command
            }),
        );
    }
    let Some(daemon) = &place.tools.chroot else {
        return Ok(list);
    };
    let seen = daemon.seen(dir);
    list.push(Contestant {
        name: "docker buildx build --push, ten tags".to_owned(),
        prepare: Box::new(|| Ok(())),
        work: Box::new(move || {
            let mut command = daemon.docker();
            command.args(["buildx", "build", "-q", "--provenance=false", "--push"]);
            for number in 0..TAGS {
                command.args(["-t", &reference(place, &format!("x{number}"))]);
            }
            command.arg(&seen);
            vec![command]
        }),
        daemon: Some(daemon),
    });
    Ok(list)
}

/// A two-platform index of an image that only copies, built and pushed from an empty store.
pub fn index(place: &Place) -> Result<(), String> {
    let dir = place.path("several");
    content::write(&dir.join("data"), 20, |_| 50_000)?;
    write(&dir.join("Dockerfile"), "FROM scratch\nCOPY data /data\n")?;
    let name = format!("{}/several:1", place.target.host());
    let platforms = PLATFORMS;
    let mut list = vec![Contestant {
        name: "kiln build --push".to_owned(),
        prepare: Box::new(|| {
            place.target.clear()?;
            place.remove("stores/several")
        }),
        work: Box::new(|| {
            let mut command = place.kiln("several", &["build", "-q", "--push", "-t", &name]);
            command.args(platforms).arg(&dir);
            vec![command]
        }),
        daemon: None,
    }];
    if place.tools.containers("buildah").is_some() {
        list.push(Contestant {
            name: "buildah build, buildah manifest push".to_owned(),
            prepare: Box::new(|| {
                place.target.clear()?;
                place.remove("containers")
            }),
            work: Box::new(|| {
                let buildah = || {
                    place
                        .tools
                        .containers("buildah")
                        .expect("BUG: it was there")
                };
                let (mut build, mut push) = (buildah(), buildah());
                build
                    .args(["build", "-q", "--layers", "--manifest", "several"])
                    .args(platforms)
                    .arg(&dir);
                push.args([
                    "manifest",
                    "push",
                    "-q",
                    "--all",
                    "--tls-verify=false",
                    "several",
                ]);
                push.arg(format!("docker://{name}"));
                vec![build, push]
            }),
            daemon: None,
        });
    }
    list.extend(index_by_buildx(place, &dir, &name));
    race::run(
        place,
        Part::new("W8: two-platform index, built and pushed", Some(0.08)),
        list,
        5,
        Bytes::In(&place.target),
    )
}

fn index_by_buildx<'a>(place: &'a Place, dir: &Path, name: &'a str) -> Option<Contestant<'a>> {
    let daemon = place.tools.chroot.as_ref()?;
    let seen = daemon.seen(dir);
    Some(Contestant {
        name: "docker buildx build --push".to_owned(),
        prepare: Box::new(|| {
            place.target.clear()?;
            shell::output(daemon.docker().args(["buildx", "prune", "-af"])).map(drop)
        }),
        work: Box::new(move || {
            let mut command = daemon.docker();
            command.args([
                "buildx",
                "build",
                "-q",
                "--provenance=false",
                "--push",
                "-t",
                name,
            ]);
            command.args(PLATFORMS).arg(&seen);
            vec![command]
        }),
        daemon: Some(daemon),
    })
}
