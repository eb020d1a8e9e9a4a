//! Steps with secrets and SSH agents on a cluster: they get those of the worker, where that is allowed, and nothing of them
//! or of what the user gave is in what goes over the wire or stays anywhere.

use crate::cluster::{build, command, digest, executor, options, program};
use crate::run_ssh::{Agent, bring_client, has_ssh, new_key};
use crate::support::{Project, files_below, unique};
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::reapi::{Options, Server};
use testkit::{Scratch, digest_of};

/// A server whose worker has secrets.
struct Site {
    server: Server,
    _secrets: Scratch,
    token: String,
}

impl Site {
    fn new() -> Self {
        let secrets = Scratch::new();
        let token = unique("what-the-worker-knows");
        fs::write(secrets.path().join("token"), &token).unwrap();
        let folder = secrets.path().to_str().unwrap().to_owned();
        let server = Server::start(Options {
            environment: vec![("KILN_WORKER_SECRETS".to_owned(), folder)],
            ..options()
        });
        Self {
            server,
            _secrets: secrets,
            token,
        }
    }

    /// Steps that take the token as a file and as a variable, and know what it must be without having it.
    fn dockerfile(&self) -> String {
        let sum = digest_of(self.token.as_bytes());
        let sum = sum.strip_prefix("sha256:").unwrap();
        format!(
            "FROM busybox\n\
             RUN --mount=type=secret,id=token,required,mode=0444 [ \"$(sha256sum < /run/secrets/token)\" = '{sum}  -' ] && stat -c '%a %u %s' /run/secrets/token > /seen\n\
             RUN --mount=type=secret,id=token,env=TOKEN [ \"$(printf %s \"$TOKEN\" | sha256sum)\" = '{sum}  -' ] && echo ${{#TOKEN}} > /length\n\
             RUN --mount=type=secret,id=other,env=OTHER [ -z \"${{OTHER+set}}\" ] && [ -z \"$TOKEN\" ] && [ ! -e /run/secrets/other ]\n"
        )
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    let text = text.as_bytes();
    bytes.windows(text.len()).any(|window| window == text)
}

/// Whether nothing of a text is in the store, the server's storage, or what was said.
#[track_caller]
fn assert_nowhere(text: &str, server: &Server, project: &Project, said: &str) {
    assert!(!said.contains(text), "{said}");
    // The program is what it was before.
    let program = format!("/{}", fs::metadata(program()).unwrap().len());
    let blobs = server.blobs().into_iter();
    for digest in blobs.filter(|digest| !digest.ends_with(&program)) {
        let blob = server.blob(&digest).unwrap();
        assert!(!holds(&blob, text), "{digest}");
    }
    for action in server.actions() {
        let result = server.result(&action).unwrap();
        assert!(!holds(format!("{result:?}").as_bytes(), text));
    }
    for execution in server.executions() {
        assert!(!execution.arguments.join(" ").contains(text));
    }
    for file in files_below(&project.store()) {
        assert!(!holds(&fs::read(&file).unwrap(), text), "{file:?}");
    }
}

/// RU08, RU09.
#[test]
fn ru09_steps_get_the_secrets_of_the_worker() {
    let site = Site::new();
    let flag = executor(&site.server, ",allow=secret");
    let given = unique("what-the-user-knows");
    let project = Project::new(&site.dockerfile());
    let file = project.path("given");
    fs::write(&file, &given).unwrap();
    let secret = format!("--secret=id=token,src={}", file.display());
    let run = build(&project, &[&flag, &secret]).ok();
    assert_eq!(site.server.counters().actions_run, 3);
    let note = "secret token is the worker's: the one that was given stays here";
    assert_eq!(run.stderr.matches(note).count(), 1, "{}", run.stderr);
    for text in [&site.token, &given] {
        assert_nowhere(text, &site.server, &project, &run.stderr);
    }

    // The image is the one of a build here that has the worker's secret.
    let alone = Project::new(&site.dockerfile());
    let file = alone.path("given");
    fs::write(&file, &site.token).unwrap();
    let secret = format!("--secret=id=token,src={}", file.display());
    let here = digest(&alone, &[&secret]);
    assert_eq!(digest(&project, &[&flag]), here);

    // Another machine, which has no secrets, runs nothing; one without the allowance has to have them.
    let other = Project::new(&site.dockerfile());
    assert_eq!(digest(&other, &[&flag]), here);
    assert_eq!(site.server.counters().actions_run, 3);
    let stays = Project::new(&site.dockerfile());
    let flag = executor(&site.server, "");
    build(&stays, &[&flag]).fails(1, &["secret token: not found"]);
    let run = build(&stays, &[&flag, &secret]).ok();
    let here = run.stderr.matches("runs on this machine: it has a secret");
    assert_eq!(here.count(), 3, "{}", run.stderr);
}

#[test]
fn a_secret_that_the_worker_lacks() {
    let site = Site::new();
    let flag = executor(&site.server, ",allow=secret");
    let project = Project::new(
        "FROM busybox\nRUN --mount=type=secret,id=here,required grep -q mine /run/secrets/here\n",
    );
    let file = project.path("given");
    fs::write(&file, "mine").unwrap();
    let secret = format!("--secret=id=here,src={}", file.display());
    build(&project, &[&flag, &secret]).fails(1, &["secret here: not found"]);
    let run = build(&project, &[&flag, &secret, "--executor-fallback=local"]).ok();
    assert!(
        run.stderr.contains("runs on this machine"),
        "{}",
        run.stderr
    );
    assert_nowhere("mine\u{0}", &site.server, &project, &run.stderr);

    // What no file of a worker can be called is this machine's.
    let project =
        Project::new("FROM busybox\nRUN --mount=type=secret,id=a/b,env=S [ \"$S\" = mine ]\n");
    let secret = format!("--secret=id=a/b,src={}", file.display());
    let run = build(&project, &[&flag, &secret]).ok();
    assert!(run.stderr.contains("is no file name"), "{}", run.stderr);
}

/// RU10.
#[test]
fn ru10_steps_get_the_agent_of_the_worker() {
    if !has_ssh() {
        return;
    }
    let project = Project::new("");
    let client = bring_client(&project);
    project.write(
        "Dockerfile",
        format!(
            "FROM busybox\n\
             RUN --mount=type=ssh,required,mode=0600 --mount=target=/ctx {client}ssh-add -L > /agent && [ -S $SSH_AUTH_SOCK ]\n\
             RUN --mount=type=ssh --mount=target=/ctx ! {client}ssh-add -D && echo text > /text && \\\n\
             \x20   {client}ssh-keygen -q -Y sign -f /ctx/key.pub -n test /text\n\
             RUN --mount=type=ssh,id=none [ ! -e $SSH_AUTH_SOCK ]\n"
        ),
    );
    let key = project.path("key");
    new_key(&key, "ed25519");
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    project.write("key.pub", &public);
    let agent = Agent::start(&project.path("."), &[&key]);
    let socket = agent.socket.to_str().unwrap().to_owned();
    let server = Server::start(Options {
        environment: vec![("SSH_AUTH_SOCK".to_owned(), socket)],
        ..options()
    });
    let flag = executor(&server, ",allow=ssh");
    let out = project.path("out");
    let mut first = command(&project, &[&flag, "-o", out.to_str().unwrap()]);
    first.env_remove("SSH_AUTH_SOCK");
    project.run(first).ok();
    assert_eq!(server.counters().actions_run, 3);
    assert_eq!(fs::read_to_string(out.join("agent")).unwrap(), public);
    assert!(is_signed(&project, &out.join("text"), &public));
    assert!(!out.join("run/buildkit").exists());
    let socket = agent.socket.display().to_string();
    assert_nowhere(&socket, &server, &project, "");

    let flag = executor(&server, "");
    let mut here = command(&project, &[&flag, "--no-cache"]);
    here.env_remove("SSH_AUTH_SOCK");
    project
        .run(here)
        .fails(1, &["no SSH key \"default\" forwarded from the client"]);
    let flag = executor(&server, ",allow=ssh");
    let wanting = Project::new("FROM busybox\nRUN --mount=type=ssh,id=deploy,required true\n");
    build(&wanting, &[&flag]).fails(1, &["SSH agent deploy: not found"]);
}

fn is_signed(project: &Project, text: &Path, public: &str) -> bool {
    let allowed = project.path("allowed");
    fs::write(&allowed, format!("me {public}")).unwrap();
    let mut check = Command::new("ssh-keygen");
    check.args(["-Y", "verify", "-I", "me", "-n", "test", "-f"]);
    check
        .arg(&allowed)
        .arg("-s")
        .arg(text.with_extension("sig"));
    check.stdin(fs::File::open(text).unwrap());
    check.output().unwrap().status.success()
}
