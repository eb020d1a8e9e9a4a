//! Images that Docker, Podman or containerd takes: `--load`, `type=docker` without a destination.

use crate::support::{Project, Run, able, is_root, unique, wait_until};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::{Dockerd, FakeDocker, Storage};

const DOCKERFILE: &str = "\
FROM busybox
RUN mkdir /made && echo text > /made/file
COPY f /f
";

fn project() -> Project {
    let project = Project::new(DOCKERFILE);
    project.write("f", "one");
    project
}

fn daemon(project: &Project, storage: Storage) -> FakeDocker {
    FakeDocker::start(&project.path("docker.sock"), storage)
}

fn load(project: &Project, docker: &FakeDocker, args: &[&str]) -> Run {
    load_from(project, &docker.host(), args)
}

fn load_from(project: &Project, host: &str, args: &[&str]) -> Run {
    let mut command = project.build_command(args);
    command.args(["--load", "--iidfile", "id", "--metadata-file", "metadata"]);
    command.env("DOCKER_HOST", host);
    project.run(command)
}

fn id(project: &Project) -> String {
    fs::read_to_string(project.path("id")).unwrap()
}

fn names(docker: &FakeDocker) -> Vec<Vec<String>> {
    let names = |image: testkit::LoadedImage| image.names.into_iter().collect();
    docker.images().into_iter().map(names).collect()
}

/// Archives with the number of files in each that are neither JSON nor small.
fn layers_sent(docker: &FakeDocker, project: &Project) -> Vec<usize> {
    let layers = |archive: &std::collections::BTreeSet<String>| {
        let documents = ["manifest.json", "index.json", "oci-layout"];
        let is_config = |path: &&String| path.contains(id(project).trim_start_matches("sha256:"));
        archive
            .iter()
            .filter(|path| !documents.contains(&path.as_str()) && !is_config(path))
            .count()
    };
    docker.archives().iter().map(layers).collect()
}

#[test]
fn o04_load_sends_layers_that_docker_lacks() {
    let project = project();
    let docker = daemon(&project, Storage::Layers);
    load(&project, &docker, &["-t", "app:1", "-t", "host:5000/a/app"]).ok();
    assert_eq!(names(&docker), [["app:1", "host:5000/a/app:latest"]]);
    assert_eq!(layers_sent(&docker, &project), [3]);
    assert_eq!(docker.images()[0].id, id(&project));

    // What is there is not sent, and a name that it lacks is given.
    load(&project, &docker, &["-t", "app:1", "-t", "app:2"]).ok();
    assert_eq!(layers_sent(&docker, &project), [3]);
    assert_eq!(
        names(&docker),
        [["app:1", "app:2", "host:5000/a/app:latest"]]
    );

    project.write("f", "two");
    load(&project, &docker, &["-t", "app:1"]).ok();
    assert_eq!(docker.images()[0].id, id(&project));
    assert_eq!(docker.images()[0].layers.len(), 3);
    assert_eq!(docker.archives().len(), 2);
    assert_eq!(layers_sent(&docker, &project)[1], 1);
    // The store has it too.
    let images = project.images();
    assert!(
        images.contains(&"docker.io/library/app:1".to_owned()),
        "{images:?}"
    );
}

#[test]
fn o04_load_sends_all_when_layers_are_gone_meanwhile() {
    let project = project();
    for (socket, storage) in [("a.sock", Storage::Layers), ("b.sock", Storage::Content)] {
        let docker = FakeDocker::start(&project.path(socket), storage);
        project.write("f", format!("one of {socket}"));
        load(&project, &docker, &["-t", "app:1"]).ok();
        project.write("f", format!("two of {socket}"));
        docker.lose_content();
        load(&project, &docker, &["-t", "app:1"]).ok();
        let archives: Vec<usize> = docker
            .archives()
            .iter()
            .map(std::collections::BTreeSet::len)
            .collect();
        assert_eq!(archives.len(), 3, "{storage:?}");
        assert_eq!(
            (archives[1] + 2, archives[2]),
            (archives[0], archives[0]),
            "{storage:?}"
        );
        assert_eq!(names(&docker)[0], ["app:1"]);
    }
}

#[test]
fn o04_load_sends_blobs_that_containerd_lacks() {
    let project = project();
    let docker = daemon(&project, Storage::Content);
    load(&project, &docker, &["-t", "app:1", "-t", "app:2"]).ok();
    assert_eq!(names(&docker), [["app:1", "app:2"]]);
    // The image is its manifest there: what the files say can be given to `docker run`.
    assert_eq!(docker.images()[0].id, id(&project));
    let metadata: Value =
        serde_json::from_slice(&fs::read(project.path("metadata")).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], id(&project));
    load(&project, &docker, &["-t", "app:3"]).ok();
    assert_eq!(names(&docker), [["app:1", "app:2", "app:3"]]);
    assert_eq!(docker.archives().len(), 1);
    project.write("f", "two");
    load(&project, &docker, &["-t", "app:1"]).ok();
    let sizes: Vec<usize> = docker
        .archives()
        .iter()
        .map(std::collections::BTreeSet::len)
        .collect();
    assert_eq!(sizes[0] - sizes[1], 2, "{sizes:?}");

    // Several platforms are one image there, and two that Docker's own storage cannot take.
    project.write("Dockerfile", "FROM scratch\nCOPY f /f\n");
    let platforms = ["--platform", "linux/amd64,linux/arm64", "-t", "both"];
    load(&project, &docker, &platforms).ok();
    assert_eq!(docker.images()[0].id, id(&project));
    let graph = FakeDocker::start(&project.path("graph.sock"), Storage::Layers);
    let lists = "docker exporter does not currently support exporting manifest lists";
    load(&project, &graph, &platforms).fails(1, &[lists]);
    let lists =
        "docker exporter does not support exporting manifest lists, use the oci exporter instead";
    project
        .build(&[&platforms[..2], &["-o", "type=docker,dest=out.tar"]].concat())
        .fails(1, &[lists]);
}

#[test]
fn o04_load_into_podman_behind_dockers_api() {
    let project = project();
    let docker = daemon(&project, Storage::Podman);
    load(&project, &docker, &["-t", "app:1"]).ok();
    // A short name would become one of localhost.
    assert_eq!(names(&docker), [["docker.io/library/app:1"]]);
    project.write("f", "two");
    load(&project, &docker, &["-t", "app:1"]).ok();
    assert_eq!(layers_sent(&docker, &project)[1], 3);
    assert_eq!(docker.archives().len(), 2);
}

#[test]
fn o04_load_tells_what_the_daemon_says() {
    let project = project();
    let docker = daemon(&project, Storage::Layers);
    docker.fail_next("no space left on device");
    load(&project, &docker, &["-t", "app:1"]).fails(
        1,
        &[
            "could not load the image into Docker",
            "no space left on device",
        ],
    );
    assert!(docker.images().is_empty());

    load_from(&project, "unix:///does/not/exist.sock", &[])
        .fails(1, &["unix:///does/not/exist.sock", "No such file"]);
    load_from(&project, "npipe:////./pipe/docker", &[]).fails(1, &["unsupported address"]);
    for (output, says) in [
        ("type=docker,to=nowhere", "unknown receiver \"nowhere\""),
        (
            "type=docker,context=a,to=podman",
            "context is a key of to=docker",
        ),
        (
            "type=docker,namespace=a",
            "namespace is a key of to=containerd",
        ),
        (
            "type=docker,dest=a.tar,to=podman",
            "dest cannot be given together with to",
        ),
        (
            "type=docker,to=docker,oci-mediatypes=maybe",
            "oci-mediatypes must be true or false",
        ),
    ] {
        project.build(&["-o", output]).fails(2, &[says]);
    }
    let mut command = project.build_command(&["-o", "type=docker,to=podman"]);
    command.env("PATH", project.path("nothing"));
    project
        .run(command)
        .fails(1, &["Podman", "the program podman is not installed"]);
    // What somebody listens for and is no daemon.
    let web = testkit::WebServer::start(None);
    let address = web.url("").replace("http://", "tcp://");
    load_from(&project, &address, &[]).fails(1, &["could not load", "404"]);
}

#[test]
fn o04_load_goes_where_the_docker_client_goes() {
    let project = project();
    let docker = daemon(&project, Storage::Layers);
    let meta = project.path("config/contexts/meta/0123");
    fs::create_dir_all(&meta).unwrap();
    let endpoint =
        serde_json::json!({"Name": "mine", "Endpoints": {"docker": {"Host": docker.host()}}});
    fs::write(meta.join("meta.json"), endpoint.to_string()).unwrap();
    let run = |config: &str, variables: &[(&str, &str)], output: &str| {
        fs::write(project.path("config/config.json"), config).unwrap();
        let mut command = project.build_command(&["-t", "app:1", "-o", output]);
        command.env("DOCKER_CONFIG", project.path("config"));
        command.envs(variables.iter().copied());
        project.run(command)
    };
    let nobody = ("DOCKER_HOST", "unix:///does/not/exist.sock");
    let before = || docker.requests().len();
    for (config, variables, output) in [
        ("{\"currentContext\":\"mine\"}", vec![], "type=docker"),
        ("{}", vec![("DOCKER_CONTEXT", "mine")], "type=docker"),
        (
            "{\"currentContext\":\"other\"}",
            vec![nobody],
            "type=docker,context=mine",
        ),
        (
            "{}",
            vec![("DOCKER_HOST", docker.host().leak() as &str)],
            "type=docker,to=docker",
        ),
        (
            "{}",
            vec![("DOCKER_HOST", docker.host().leak() as &str)],
            "type=docker,context=default",
        ),
    ] {
        let asked = before();
        run(config, &variables, output).ok();
        assert!(before() > asked, "{config} {variables:?} {output}");
    }
    assert_eq!(names(&docker), [["app:1"]]);
    let asked = before();
    run("{\"currentContext\":\"mine\"}", &[nobody], "type=docker").fails(1, &["does/not/exist"]);
    run("{}", &[("DOCKER_CONTEXT", "other")], "type=docker")
        .fails(1, &["docker context \"other\" is not known"]);
    assert_eq!(before(), asked);
}

#[test]
fn o04_load_without_a_daemon_stays_in_the_store() {
    let socket = Path::new("/var/run/docker.sock");
    if !able(!socket.exists(), "a machine without Docker's socket") {
        return;
    }
    let project = project();
    let run = project.build(&["--load", "-t", "app:1"]).ok();
    assert!(
        run.stderr.contains("no Docker is running here"),
        "{}",
        run.stderr
    );
    assert_eq!(project.images(), ["docker.io/library/app:1"]);
}

#[test]
fn o04_load_that_is_cancelled_leaves_nothing() {
    let project = project();
    let docker = daemon(&project, Storage::Layers);
    docker.stall();
    let mut command = project.build_command(&["--load", "-t", "app:1"]);
    command.env("DOCKER_HOST", docker.host());
    let started = project.start(command);
    let is_loading = || {
        docker
            .requests()
            .iter()
            .any(|request| request.contains("/images/load"))
    };
    assert!(wait_until(Duration::from_secs(60), is_loading));
    let begun = Instant::now();
    started.signal(rustix::process::Signal::TERM);
    started.finish().fails(130, &[]);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(docker.images().is_empty());
}

/// Podman and containerd are programs; these stand in for them, and take what comes whole.
#[test]
fn o04_load_into_podman_and_containerd() {
    let project = project();
    let bin = project.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let script = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(bin.join(name), format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let out = project.path("out");
    fs::create_dir_all(&out).unwrap();
    let folder = out.display();
    script(
        "podman",
        &format!(
            "echo \"$@\" >> {folder}/log\ncase $1 in load) cat > {folder}/podman.tar;; image) test -e {folder}/podman.tar;; esac\n"
        ),
    );
    script(
        "ctr",
        &format!(
            "echo \"$@\" >> {folder}/log\ncase \"$*\" in *import*) cat > {folder}/ctr.tar;; *content*) cat {folder}/known;; esac\n"
        ),
    );
    fs::write(out.join("known"), "").unwrap();
    let run = |output: &str, args: &[&str]| {
        let mut command = project.build_command(&["-o", output]);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(args)
            .env("PATH", format!("{}:{path}", bin.display()));
        project.run(command)
    };
    run("type=docker,to=podman", &["-t", "app:1", "-t", "app:2"]).ok();
    let layout = crate::support::unpack(&out.join("podman.tar"), &out.join("podman"));
    let manifest: Value =
        serde_json::from_slice(&fs::read(layout.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(
        manifest[0]["RepoTags"],
        serde_json::json!(["docker.io/library/app:1", "docker.io/library/app:2"])
    );
    run("type=docker,to=podman", &["-t", "app:3"]).ok();
    run(
        "type=docker,to=containerd,namespace=k8s.io",
        &["-t", "app:1"],
    )
    .ok();
    let layout = crate::support::unpack(&out.join("ctr.tar"), &out.join("ctr"));
    testkit::validate(&layout).unwrap();
    // What containerd has stays away.
    let layers: Vec<PathBuf> = crate::support::files_below(&layout.join("blobs"));
    let largest = layers
        .iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let digest = format!("sha256:{}", largest.file_name().unwrap().to_str().unwrap());
    fs::write(out.join("known"), digest).unwrap();
    run("type=docker,to=containerd", &["-t", "app:1"]).ok();
    assert!(
        fs::metadata(out.join("ctr.tar")).unwrap().len() < fs::metadata(largest).unwrap().len()
    );
    let log = fs::read_to_string(out.join("log")).unwrap();
    for line in [
        "load --quiet",
        "docker.io/library/app:3",
        "--namespace=k8s.io images import -",
        "images import -",
    ] {
        assert!(log.contains(line), "{line} in {log}");
    }
    assert_eq!(log.matches("load --quiet").count(), 1, "{log}");

    script(
        "podman",
        "case $1 in --version) exit 0;; image) exit 1;; esac\necho 'Error: no space left' >&2\nexit 125\n",
    );
    run("type=docker,to=podman", &["-t", "app:1"]).fails(
        1,
        &["could not load the image into Podman", "no space left"],
    );
    run("type=docker,to=containerd", &[]).fails(1, &["containerd", "needs a name"]);
}

#[test]
fn o04_load_and_save_with_a_real_docker() {
    let has = |name: &str| {
        Command::new(name)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !(is_root() && has("dockerd") && has("docker")) {
        eprintln!("SKIPPED: needs root, dockerd and docker");
        return;
    }
    // A short path: a socket's has 107 bytes at most.
    let folder = std::env::temp_dir().join(unique("kiln-dockerd"));
    let docker = match Dockerd::start(folder.clone()) {
        Ok(docker) => docker,
        Err(reason) => {
            eprintln!("SKIPPED: {reason}");
            return;
        }
    };
    let project = project();
    let layers = |name: &str| docker.docker(&["inspect", "-f", "{{json .RootFS.Layers}}", name]);
    load_from(
        &project,
        &docker.host(),
        &["-t", "app:1", "-t", "app:latest"],
    )
    .ok();
    assert_eq!(
        docker.docker(&["inspect", "-f", "{{.Id}}", "app"]),
        id(&project)
    );
    let first = layers("app:1");
    load_from(&project, &docker.host(), &["-t", "app:2"]).ok();
    assert_eq!(
        docker.docker(&["inspect", "-f", "{{.Id}}", "app:2"]),
        id(&project)
    );
    project.write("f", "two");
    load_from(&project, &docker.host(), &["-t", "app:1"]).ok();
    assert_eq!(
        docker.docker(&["inspect", "-f", "{{.Id}}", "app:1"]),
        id(&project)
    );
    assert_ne!(layers("app:1"), first);
    // What it has is what was built, file by file.
    let exported = project.path("exported.tar");
    let container = docker.docker(&["create", "app:1", "/none"]);
    docker.docker(&["export", "-o", exported.to_str().unwrap(), &container]);
    let entries = testkit::tar_entries(&exported).unwrap();
    for path in ["f", "made/file", "bin/sh"] {
        assert!(entries.iter().any(|entry| entry.path == path), "{path}");
    }
    docker.docker(&["rm", &container]);
    docker.docker(&["rmi", "-f", "app:1", "app:2", "app:latest"]);
    // And the other way, by an archive.
    let archive = project.path("saved.tar");
    project
        .kiln(&["save", "-o", archive.to_str().unwrap(), "app:1", "app:2"])
        .ok();
    docker.docker(&["load", "-i", archive.to_str().unwrap()]);
    assert_eq!(
        docker.docker(&["inspect", "-f", "{{.Id}}", "app:1"]),
        id(&project)
    );
    assert_eq!(layers("app:2"), first);
}
