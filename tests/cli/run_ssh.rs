//! `RUN --mount=type=ssh` and `--ssh`: with OpenSSH's own agent and client, which are brought into the context.

use crate::support::{Project, Run, able, is_root, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// An agent of the user's, ended when it is dropped.
pub(crate) struct Agent {
    process: Child,
    pub(crate) socket: PathBuf,
}

impl Agent {
    pub(crate) fn start(folder: &Path, keys: &[&Path]) -> Self {
        let socket = folder.join("agent.sock");
        let process = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        assert!(wait_until(Duration::from_secs(10), || socket.exists()));
        for key in keys {
            let mut add = Command::new("ssh-add");
            add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket);
            assert!(add.status().unwrap().success());
        }
        Self { process, socket }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether OpenSSH is here.
pub(crate) fn has_ssh() -> bool {
    let found = ["ssh-agent", "ssh-add", "ssh-keygen"]
        .iter()
        .all(|name| Path::new("/usr/bin").join(name).exists());
    able(found, "OpenSSH's client")
}

pub(crate) fn new_key(path: &Path, kind: &str) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", "", "-C", kind, "-f"])
        .arg(path)
        .status();
    assert!(made.unwrap().success());
}

/// Puts programs with their libraries into the context and returns how to start one in a command.
pub(crate) fn bring_client(project: &Project) -> String {
    let mut loader = String::new();
    for program in ["ssh-add", "ssh-keygen"] {
        let path = Path::new("/usr/bin").join(program);
        let bytes = fs::read(&path).unwrap();
        project.write(&format!("ssh/{program}"), bytes);
        let listed = Command::new("ldd").arg(&path).output().unwrap();
        for word in String::from_utf8(listed.stdout).unwrap().split_whitespace() {
            if !word.starts_with('/') {
                continue;
            }
            let name = Path::new(word).file_name().unwrap().to_str().unwrap();
            project.write(&format!("ssh/{name}"), fs::read(word).unwrap());
            if name.starts_with("ld-") {
                loader = name.to_owned();
            }
        }
    }
    for entry in fs::read_dir(project.path("context/ssh")).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("/ctx/ssh/{loader} --library-path /ctx/ssh /ctx/ssh/")
}

fn build_with(project: &Project, agent: Option<&Agent>, args: &[&str]) -> Run {
    let mut command = project.build_command(args);
    command.env_remove("SSH_AUTH_SOCK");
    if let Some(agent) = agent {
        command.env("SSH_AUTH_SOCK", &agent.socket);
    }
    project.run(command)
}

/// RU10, CLI:ssh.
#[test]
fn ru10_agents_and_keys_are_forwarded() {
    if !has_ssh() {
        return;
    }
    let project = Project::new("");
    let client = bring_client(&project);
    project.write(
        "Dockerfile",
        format!(
            "FROM busybox\n\
             RUN --mount=type=ssh,required --mount=target=/ctx {client}ssh-add -L > /agent\n\
             RUN --mount=type=ssh,id=own,required --mount=target=/ctx {client}ssh-add -L > /own\n\
             RUN --mount=type=ssh,id=own --mount=target=/ctx ! {client}ssh-add -D && ! {client}ssh-add -x </dev/null\n\
             RUN --mount=type=ssh,id=own --mount=target=/ctx for key in rsa ecdsa; do echo text > /$key.text && \\\n\
             \x20   {client}ssh-keygen -q -Y sign -f /ctx/$key.pub -n test /$key.text; done\n\
             RUN --mount=type=ssh --mount=target=/ctx echo text > /ed25519.text && \\\n\
             \x20   {client}ssh-keygen -q -Y sign -f /ctx/ed25519.pub -n test /ed25519.text\n\
             RUN [ ! -e /run/buildkit ] && [ -z \"$SSH_AUTH_SOCK\" ]\n"
        ),
    );
    let keys: Vec<PathBuf> = ["ed25519", "rsa", "ecdsa"]
        .iter()
        .map(|kind| {
            let path = project.path(kind);
            new_key(&path, kind);
            project.write(
                &format!("{kind}.pub"),
                fs::read(path.with_extension("pub")).unwrap(),
            );
            path
        })
        .collect();
    let agent = Agent::start(&project.path("."), &[&keys[0]]);
    let own = format!("own={},{}", keys[1].display(), keys[2].display());
    build_with(
        &project,
        Some(&agent),
        &["--ssh", "default", "--ssh", &own, "-o", "out"],
    )
    .ok();
    let read = |name: &str| fs::read_to_string(project.path(name)).unwrap();
    assert_eq!(read("out/agent"), read("ed25519.pub"));
    assert_eq!(read("out/own"), read("rsa.pub") + &read("ecdsa.pub"));
    for kind in ["ed25519", "rsa", "ecdsa"] {
        let allowed = project.path("allowed");
        fs::write(&allowed, format!("me {}", read(&format!("{kind}.pub")))).unwrap();
        let text = project.path("out").join(format!("{kind}.text"));
        let mut check = Command::new("ssh-keygen");
        check.args(["-Y", "verify", "-I", "me", "-n", "test", "-f"]);
        check
            .arg(&allowed)
            .arg("-s")
            .arg(text.with_extension("text.sig"));
        check.stdin(fs::File::open(&text).unwrap());
        let checked = check.output().unwrap();
        assert!(checked.status.success(), "{kind}: {checked:?}");
    }
    assert!(
        !project.path("out/run/buildkit").exists(),
        "no mount point is left"
    );
    // A socket by its path, and one of which nobody knows what it speaks.
    for spec in ["default={}", "default={},raw=true", "={}"] {
        let spec = spec.replace("{}", agent.socket.to_str().unwrap());
        build_with(
            &project,
            None,
            &["--no-cache", "--ssh", &spec, "--ssh", &own],
        )
        .ok();
    }
}

#[test]
fn ru10_sockets_of_agents() {
    let owner = if is_root() { "7 8" } else { "0 0" };
    let project = Project::new(&format!(
        "FROM busybox\nWORKDIR /w\n\
         RUN --mount=type=ssh [ $SSH_AUTH_SOCK = /run/buildkit/ssh_agent.0 ] && [ -S $SSH_AUTH_SOCK ] && \\\n\
         \x20   [ \"$(stat -c '%u %g %a' $SSH_AUTH_SOCK)\" = '0 0 600' ]\n\
         RUN --mount=type=ssh,uid=7,gid=8,mode=0666,target=sock [ \"$(stat -c '%u %g %a' /w/sock)\" = '{owner} 666' ] && \\\n\
         \x20   [ $SSH_AUTH_SOCK = /w/sock ]\n\
         RUN --mount=type=ssh --mount=type=ssh,id=two --mount=type=ssh,id=none \\\n\
         \x20   [ -S /run/buildkit/ssh_agent.0 ] && [ -S /run/buildkit/ssh_agent.1 ] && [ ! -e /run/buildkit/ssh_agent.2 ]\n\
         ENV SSH_AUTH_SOCK=/mine\n\
         RUN --mount=type=ssh [ $SSH_AUTH_SOCK = /mine ]\n\
         RUN [ ! -e /run/buildkit ] && [ ! -e /w/sock ]\n"
    ));
    let socket = project.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let [one, two] = ["default", "two"].map(|id| format!("{id}={}", socket.display()));
    build_with(&project, None, &["--ssh", &one, "--ssh", &two]).ok();
}

#[test]
fn ru10_agents_that_are_missing_or_wrong() {
    let optional = Project::new("FROM busybox\nRUN --mount=type=ssh [ ! -e $SSH_AUTH_SOCK ]\n");
    build_with(&optional, None, &[]).ok();
    let required = Project::new("FROM busybox\nRUN --mount=type=ssh,required,id=key true\n");
    build_with(&required, None, &[]).fails(
        1,
        &[
            "no SSH key \"key\" forwarded from the client",
            "Dockerfile:2",
            "--ssh key",
        ],
    );
    let socket = required.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let other = format!("other={}", socket.display());
    build_with(&required, None, &["--ssh", &other])
        .fails(1, &["unset ssh forward key key", "Dockerfile:2"]);
    fs::write(required.path("text"), "no key").unwrap();
    for (spec, status, says) in [
        ("default", 2, "invalid empty ssh agent socket"),
        ("key=not-there", 2, "failed to open not-there"),
        ("key=text", 1, "failed to parse text"),
        ("key=socket,text", 2, "only single socket allowed"),
        (
            "key=raw=true",
            2,
            "raw mode must supply exactly one socket path",
        ),
        (
            "key=text,raw=true",
            2,
            "raw mode only supported with socket paths",
        ),
    ] {
        build_with(&required, None, &["--ssh", spec]).fails(status, &[says]);
    }
    build_with(&required, None, &["--ssh", &other, "--ssh", &other])
        .fails(2, &["invalid duplicate ID other"]);
    if has_ssh() {
        let key = required.path("locked");
        let mut make = Command::new("ssh-keygen");
        make.args(["-q", "-t", "ed25519", "-N", "secret", "-f"])
            .arg(&key);
        assert!(make.status().unwrap().success());
        let spec = format!("key={}", key.display());
        build_with(&required, None, &["--ssh", &spec])
            .fails(1, &["failed to parse", "passphrase protected"]);
    }
}
