//! Pull and unpack of a 170 MB base; push of much data that must be compressed.

use crate::bench::content;
use crate::bench::place::{Place, script_of, write};
use crate::bench::race::{self, Bytes, Contestant, Part};
use crate::shell;
use std::path::Path;
use std::process::Command;

/// Pull and unpack, from an empty store.
pub fn pull(place: &Place) -> Result<(), String> {
    let base = format!("{}/base:1", place.bases.host());
    let dir = place.path("base");
    content::write(&dir.join("root"), 8000, |number| {
        2000 + (number * 7919) % 38_000
    })?;
    let layout = layout_of(place, &dir, "base-layout")?;
    let mut seed = place.tools.skopeo().ok_or("skopeo is not installed")?;
    seed.args(["copy", "-q", "--dest-tls-verify=false", "--dest-compress"])
        .arg(format!("oci:{}:latest", layout.display()))
        .arg(format!("docker://{base}"));
    shell::output(&mut seed)?;
    let context = place.path("on-base");
    write(
        &context.join("Dockerfile"),
        format!("FROM {base}\nRUN [\"true\"]\n"),
    )?;
    let fresh = || place.remove("stores/pull");
    let mut list = vec![
        Contestant {
            name: "kiln build FROM it, RUN true".to_owned(),
            prepare: Box::new(fresh),
            work: Box::new(|| {
                let mut command = place.kiln("pull", &["build", "-q"]);
                command.arg(&context);
                vec![command]
            }),
            daemon: None,
        },
        Contestant {
            name: "kiln pull --unpack".to_owned(),
            prepare: Box::new(fresh),
            work: Box::new(|| vec![place.kiln("pull", &["pull", "-q", "--unpack", &base])]),
            daemon: None,
        },
    ];
    let host = place.bases.host();
    let unpack = place.path("unpacked");
    list.push(Contestant {
        name: "limit: curl, gzip -dc, tar x".to_owned(),
        prepare: Box::new(|| {
            place.remove("unpacked")?;
            std::fs::create_dir_all(place.path("unpacked")).map_err(|error| error.to_string())
        }),
        work: Box::new(move || {
            let script = format!(
                "for d in $(curl -s -H 'Accept: application/vnd.oci.image.manifest.v1+json' http://{host}/v2/base/manifests/1 | \
                 tr ',{{}}' '\\n' | grep -A9 layers | sed -n 's/.*\"digest\":\"\\(.*\\)\"/\\1/p'); do \
                 curl -s http://{host}/v2/base/blobs/$d | gzip -dc | tar x -C '{}'; done",
                unpack.display()
            );
            vec![script_of(&script)]
        }),
        daemon: None,
    });
    list.extend(pull_by_host_tools(place, &base));
    list.extend(pull_in_chroot(place, &base, &context));
    race::run(
        place,
        Part::new("W7: pull and unpack of a 170 MB base", Some(1.4)),
        list,
        3,
        Bytes::Uncounted,
    )
}

fn pull_by_host_tools<'a>(place: &'a Place, base: &'a str) -> Vec<Contestant<'a>> {
    let mut list = Vec::new();
    if place.tools.skopeo().is_some() {
        list.push(Contestant {
            name: "skopeo copy to a layout (does not unpack)".to_owned(),
            prepare: Box::new(|| place.remove("skopeo-dest")),
            work: Box::new(move || {
                let mut command = place.tools.skopeo().expect("BUG: it was there");
                command
                    .args(["copy", "-q", "--src-tls-verify=false"])
                    .arg(format!("docker://{base}"))
                    .arg(format!("oci:{}:1", place.path("skopeo-dest").display()));
                vec![command]
            }),
            daemon: None,
        });
    }
    for program in ["podman", "buildah"] {
        if place.tools.containers(program).is_none() {
            continue;
        }
        list.push(Contestant {
            name: format!("{program} pull"),
            prepare: Box::new(|| place.remove("containers")),
            work: Box::new(move || {
                let mut command = place.tools.containers(program).expect("BUG: it was there");
                command.args(["pull", "-q", "--tls-verify=false", base]);
                vec![command]
            }),
            daemon: None,
        });
    }
    if let Some(daemon) = &place.tools.host {
        list.push(Contestant {
            name: "docker pull (host)".to_owned(),
            prepare: Box::new(|| {
                shell::output(daemon.docker().args(["system", "prune", "-af"])).map(drop)
            }),
            work: Box::new(move || {
                let mut command = daemon.docker();
                command.args(["pull", "-q", base]);
                vec![command]
            }),
            daemon: Some(daemon),
        });
    }
    list
}

fn pull_in_chroot<'a>(place: &'a Place, base: &'a str, context: &Path) -> Vec<Contestant<'a>> {
    let mut list = Vec::new();
    if place.tools.crane().is_some() {
        list.push(Contestant {
            name: "crane export, tar x".to_owned(),
            prepare: Box::new(|| {
                place.remove("unpacked")?;
                std::fs::create_dir_all(place.path("unpacked")).map_err(|error| error.to_string())
            }),
            work: Box::new(move || {
                let mut crane = place.tools.crane().expect("BUG: it was there");
                crane.args(["export", "--insecure", base, "-"]);
                vec![piped(
                    &crane,
                    &format!("tar x -C '{}'", place.path("unpacked").display()),
                )]
            }),
            daemon: None,
        });
    }
    if place.tools.new_buildah().is_some() {
        list.push(Contestant {
            name: "buildah pull (chroot)".to_owned(),
            prepare: Box::new(|| place.remove("buildah")),
            work: Box::new(move || {
                let mut command = place.tools.new_buildah().expect("BUG: it was there");
                command.args(["pull", "-q", "--tls-verify=false", base]);
                vec![command]
            }),
            daemon: None,
        });
    }
    let Some(daemon) = &place.tools.chroot else {
        return list;
    };
    let prune = || {
        shell::output(daemon.docker().args(["system", "prune", "-af"]))?;
        shell::output(daemon.docker().args(["buildx", "prune", "-af"])).map(drop)
    };
    list.push(Contestant {
        name: "docker pull (chroot)".to_owned(),
        prepare: Box::new(prune),
        work: Box::new(move || {
            let mut command = daemon.docker();
            command.args(["pull", "-q", base]);
            vec![command]
        }),
        daemon: Some(daemon),
    });
    let seen = daemon.seen(context);
    list.push(Contestant {
        name: "docker buildx build FROM it, RUN true".to_owned(),
        prepare: Box::new(prune),
        work: Box::new(move || {
            let mut command = daemon.docker();
            command
                .args([
                    "buildx",
                    "build",
                    "-q",
                    "--provenance=false",
                    "--network=none",
                    "-o",
                    "type=cacheonly",
                ])
                .arg(&seen);
            vec![command]
        }),
        daemon: Some(daemon),
    });
    list
}

/// Push of much data that the store has uncompressed.
pub fn push(place: &Place) -> Result<(), String> {
    let dir = place.path("big");
    let size = place.options.big;
    content::write(&dir.join("data"), 64, |_| (size << 20) / 64)?;
    write(&dir.join("Dockerfile"), "FROM scratch\nCOPY data /data\n")?;
    let layout = layout_of(place, &dir, "big-layout")?;
    shell::output(place.kiln("big", &["build", "-q", "-t", "big"]).arg(&dir))?;
    for format in ["gzip", "zstd"] {
        let reference = format!("{}/big:{format}", place.target.host());
        let output = format!("type=image,name={reference},push=true,compression={format}");
        let mut list = Vec::new();
        list.push(Contestant {
            name: format!("kiln, {format}"),
            prepare: Box::new(|| {
                place.target.clear()?;
                place.copy_store("big", "push")
            }),
            work: Box::new(|| {
                let mut command = place.kiln("push", &["build", "-q", "-o", &output]);
                command.arg(&dir);
                vec![command]
            }),
            daemon: None,
        });
        push_by_host_tools(place, &layout, &reference, format, &mut list)?;
        push_in_chroot(place, &dir, &reference, format, &mut list)?;
        race::run(
            place,
            Part::new(&format!("push of {size} MiB, {format}"), None),
            list,
            3,
            Bytes::In(&place.target),
        )?;
    }
    Ok(())
}

fn push_by_host_tools<'a>(
    place: &'a Place,
    layout: &Path,
    reference: &'a str,
    format: &'static str,
    list: &mut Vec<Contestant<'a>>,
) -> Result<(), String> {
    let source = format!("oci:{}:latest", layout.display());
    let remote = format!("docker://{reference}");
    if place.tools.containers("buildah").is_some() {
        place.remove("containers")?;
        let mut pull = place
            .tools
            .containers("buildah")
            .expect("BUG: it was there");
        let id = shell::output(pull.args(["pull", "-q", &source]))?
            .trim()
            .to_owned();
        let remote = remote.clone();
        for program in ["buildah", "podman"] {
            let (id, remote) = (id.clone(), remote.clone());
            list.push(Contestant {
                name: format!("{program} push"),
                prepare: Box::new(|| place.target.clear()),
                work: Box::new(move || {
                    let mut command = place.tools.containers(program).expect("BUG: it was there");
                    command
                        .args([
                            "push",
                            "-q",
                            "--tls-verify=false",
                            "--compression-format",
                            format,
                        ])
                        .args([&id, &remote]);
                    vec![command]
                }),
                daemon: None,
            });
        }
    }
    if place.tools.skopeo().is_some() {
        list.push(Contestant {
            name: "skopeo copy from a layout".to_owned(),
            prepare: Box::new(|| place.target.clear()),
            work: Box::new(move || {
                let mut command = place.tools.skopeo().expect("BUG: it was there");
                command
                    .args(["copy", "-q", "--dest-tls-verify=false", "--dest-compress"])
                    .args(["--dest-compress-format", format, &source, &remote]);
                vec![command]
            }),
            daemon: None,
        });
    }
    Ok(())
}

fn push_in_chroot<'a>(
    place: &'a Place,
    dir: &Path,
    reference: &'a str,
    format: &'static str,
    list: &mut Vec<Contestant<'a>>,
) -> Result<(), String> {
    let Some(daemon) = &place.tools.chroot else {
        return Ok(());
    };
    if format == "gzip" {
        let tarball = place.path("big.tar");
        let output = format!(
            "type=docker,dest={},name=big:1,compression=uncompressed",
            tarball.display()
        );
        shell::output(place.kiln("big", &["build", "-q", "-o", &output]).arg(dir))?;
        list.push(Contestant {
            name: "crane push of a docker archive".to_owned(),
            prepare: Box::new(|| place.target.clear()),
            work: Box::new(move || {
                let mut crane = daemon.program("crane");
                crane
                    .args(["push", "--insecure"])
                    .arg(daemon.seen(&tarball))
                    .arg(reference);
                vec![crane]
            }),
            daemon: None,
        });
    }
    let seen = daemon.seen(dir);
    let context = seen.clone();
    list.push(Contestant {
        name: "docker buildx build --push, built before".to_owned(),
        prepare: Box::new(move || {
            place.target.clear()?;
            shell::output(daemon.docker().args(["buildx", "prune", "-af"]))?;
            let mut build = daemon.docker();
            build.args([
                "buildx",
                "build",
                "-q",
                "--provenance=false",
                "-o",
                "type=cacheonly",
            ]);
            shell::output(build.arg(&context)).map(drop)
        }),
        work: Box::new(move || {
            let mut command = daemon.docker();
            command
                .args(["buildx", "build", "-q", "--provenance=false", "-o"])
                .arg(format!(
                    "type=image,name={reference},push=true,compression={format}"
                ))
                .arg(&seen);
            vec![command]
        }),
        daemon: Some(daemon),
    });
    Ok(())
}

/// An image of a folder as a layout of uncompressed layers.
fn layout_of(place: &Place, dir: &Path, name: &str) -> Result<std::path::PathBuf, String> {
    let layout = place.path(name);
    if !dir.join("Dockerfile").exists() {
        write(&dir.join("Dockerfile"), "FROM busybox\nCOPY root /data\n")?;
    }
    let output = format!(
        "type=oci,tar=false,dest={},name=x:latest,compression=uncompressed",
        layout.display()
    );
    let busybox = shell::root().join("testdata/images/busybox");
    let busybox = format!("busybox=oci-layout://{}", busybox.display());
    let flags = ["build", "-q", "--build-context", &busybox, "-o", &output];
    shell::output(place.kiln("layouts", &flags).arg(dir))?;
    place.remove("stores/layouts")?;
    Ok(layout)
}

/// One command into a shell's.
fn piped(first: &Command, second: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", &format!("\"$@\" | {second}"), "sh"]);
    command.arg(first.get_program()).args(first.get_args());
    for (name, value) in first.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}
