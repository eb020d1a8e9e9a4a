//! Runs `git`: an environment of its own, no configuration of the machine or the user, only network protocols, and
//! credentials where no process table shows them.
//!
//! What it is told by a repository it does not do: no hooks, no helpers, no file or command transports. Options cannot
//! come from remotes or references, which always stand behind `--`.

use crate::Error;
use crate::source::Sources;
use crate::ssh::{Agents, Forward};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use planner::git_url::{redacted, redacted_words};
use planner::source::GitSource;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use store::Scratch;

/// How often a running command looks whether it is to stop.
const POLL: Duration = Duration::from_millis(10);
/// Bytes of output and of complaints that are read.
const OUTPUT_LIMIT: u64 = 16 << 20;
const STDERR_LIMIT: u64 = 16 << 10;
/// Where programs are looked for when the request does not say.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Settings of every command. Nothing here can be undone by a repository.
const SETTINGS: [(&str, &str); 12] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.autocrlf", "false"),
    ("core.fileMode", "true"),
    ("core.symlinks", "true"),
    ("core.logAllRefUpdates", "false"),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
    ("init.defaultBranch", "master"),
    ("submodule.fetchJobs", "4"),
];

/// The command for one source.
pub(super) struct Git<'a> {
    sources: &'a Sources<'a>,
    /// The remote without credentials.
    remote: String,
    /// More settings, credentials among them.
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    secrets: Vec<String>,
    /// Home folder, known hosts, and files for output.
    scratch: Scratch,
    /// Served as long as commands can run.
    agent: Option<Forward>,
}

/// Where a command works.
#[derive(Clone, Copy, Default)]
pub(super) struct Place<'p> {
    pub(super) git_dir: Option<&'p Path>,
    pub(super) work_tree: Option<&'p Path>,
    /// Only another repository of our own is read.
    pub(super) local: bool,
}

/// A command that failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// It ended badly.
    Status { stderr: String },
    /// It did not run to its end.
    Other(Error),
}

impl Failed {
    /// As the build's error.
    pub(super) fn into_error(self, what: &str) -> Error {
        match self {
            Self::Status { stderr } => {
                let help = hint(&stderr);
                Error::Source {
                    message: format!("{what}: git stderr:\n{}", stderr.trim_end()),
                    help,
                }
            }
            Self::Other(error) => error,
        }
    }

    pub(super) fn says(&self, text: &str) -> bool {
        matches!(self, Self::Status { stderr } if stderr.contains(text))
    }
}

fn hint(stderr: &str) -> Option<String> {
    let login = ["could not read Username", "Authentication failed", "403"];
    if login.iter().any(|text| stderr.contains(text)) {
        return Some(
            "the repository may not exist, or needs a login: give --secret id=GIT_AUTH_TOKEN"
                .to_owned(),
        );
    }
    if stderr.contains("Permission denied (publickey") {
        return Some("give --ssh default with a key that the server knows".to_owned());
    }
    stderr
        .contains("ssh: not found")
        .then(|| "install an SSH client".to_owned())
}

impl<'a> Git<'a> {
    pub(super) fn new(sources: &'a Sources<'a>, source: &GitSource) -> Result<Self, Error> {
        let scratch = sources.store.scratch()?;
        let (remote, own_login) = without_credentials(&source.remote);
        let mut git = Self {
            sources,
            remote,
            settings: Vec::new(),
            environment: Vec::new(),
            secrets: Vec::new(),
            scratch,
            agent: None,
        };
        make_folder(&git.home())?;
        if source.remote.starts_with("http") {
            let header = match login(sources, &git.remote)? {
                Some(header) => Some(header),
                None => own_login.map(|login| format!("Basic {}", BASE64.encode(login))),
            };
            if let Some(header) = header {
                git.secrets.push(header.clone());
                git.settings.push((
                    format!("http.{}.extraHeader", token_scope(&git.remote)),
                    format!("Authorization: {header}"),
                ));
            }
        } else if !source.remote.starts_with("git://") {
            git.use_ssh()?;
        }
        for (name, value) in &sources.request.proxies {
            git.environment.push((name.clone(), value.clone()));
        }
        Ok(git)
    }

    /// What to name the remote by on a command line.
    pub(super) fn remote(&self) -> &str {
        &self.remote
    }

    /// A folder for the caller's own files, gone with this value.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.scratch.path().join(name);
        make_folder(&path)?;
        Ok(path)
    }

    fn home(&self) -> PathBuf {
        self.scratch.path().join("home")
    }

    /// The first key that a host shows is taken, and no other while this value lives.
    fn use_ssh(&mut self) -> Result<(), Error> {
        let folder = self.folder("ssh")?;
        let agents = Agents::load(&self.sources.request.ssh)?;
        let agent = agents.forward("default", true, &folder)?;
        if let Some(agent) = &agent {
            let socket = agent.path().to_string_lossy().into_owned();
            self.environment.push(("SSH_AUTH_SOCK".to_owned(), socket));
        }
        self.agent = agent;
        let hosts = self.scratch.path().join("known_hosts");
        self.environment.push((
            "GIT_SSH_COMMAND".to_owned(),
            format!(
                "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={}",
                shell_quoted(&hosts.to_string_lossy())
            ),
        ));
        Ok(())
    }

    /// Runs without a repository.
    pub(super) fn run(&self, args: &[&str]) -> Result<String, Failed> {
        self.run_in(Place::default(), args)
    }

    /// Runs and gives its output.
    pub(super) fn run_in(&self, place: Place<'_>, args: &[&str]) -> Result<String, Failed> {
        let output = self.scratch.path().join("stdout");
        let complaints = self.scratch.path().join("stderr");
        let create = |path: &Path| {
            File::create(path).map_err(|source| Failed::Other(io("create", path, source)))
        };
        let mut command = self.command(place);
        command
            .args(args)
            .stdout(create(&output)?)
            .stderr(create(&complaints)?);
        tracing::debug!(args = ?args.iter().map(|arg| redacted(arg)).collect::<Vec<_>>(), "git");
        sandbox::end_with_caller(&mut command);
        let child = command
            .spawn()
            .map_err(|source| Failed::Other(missing(source)))?;
        let status = self.wait(child)?;
        if status.success() {
            return read(&output, OUTPUT_LIMIT).map_err(Failed::Other);
        }
        let stderr = read(&complaints, STDERR_LIMIT).map_err(Failed::Other)?;
        Err(Failed::Status {
            stderr: self.cleaned(&stderr),
        })
    }

    fn command(&self, place: Place<'_>) -> Command {
        let mut command = Command::new("git");
        let request_path = self.sources.request.search_path.as_str();
        let path = if request_path.is_empty() {
            SEARCH_PATH
        } else {
            request_path
        };
        let protocols = if place.local {
            "file"
        } else {
            "http:https:ssh:git"
        };
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.home())
            .env("XDG_CONFIG_HOME", self.home())
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            // No hooks and no descriptions in what is made, submodules included.
            .env("GIT_TEMPLATE_DIR", self.home())
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", protocols)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let settings = SETTINGS
            .iter()
            .copied()
            .chain(self.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let mut count = 0;
        for (key, value) in settings {
            command
                .env(format!("GIT_CONFIG_KEY_{count}"), key)
                .env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        let mut option = |name: &str, path: Option<&Path>| {
            if let Some(path) = path {
                let mut text = std::ffi::OsString::from(name);
                text.push(path);
                command.arg(text);
            }
        };
        option("--git-dir=", place.git_dir);
        option("--work-tree=", place.work_tree);
        let cwd = place
            .work_tree
            .or(place.git_dir)
            .unwrap_or_else(|| self.scratch.path());
        command.current_dir(cwd).stdin(Stdio::null());
        command
    }

    fn wait(&self, mut child: Child) -> Result<ExitStatus, Failed> {
        let fail = |source| Failed::Other(io("wait for", Path::new("git"), source));
        loop {
            if let Some(status) = child.try_wait().map_err(fail)? {
                return Ok(status);
            }
            if self.sources.cancel.is_cancelled() {
                let group = i32::try_from(child.id())
                    .ok()
                    .and_then(rustix::process::Pid::from_raw);
                if let Some(group) = group {
                    let _ =
                        rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                child.wait().map_err(fail)?;
                return Err(Failed::Other(Error::Cancelled));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Complaints without what nobody should read.
    fn cleaned(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret, "xxxxx");
        }
        redacted_words(&text)
    }
}

fn missing(source: std::io::Error) -> Error {
    if source.kind() == std::io::ErrorKind::NotFound {
        return Error::Source {
            message: "failed to find git binary".to_owned(),
            help: Some("install git, or make it reachable through PATH".to_owned()),
        };
    }
    io("start", Path::new("git"), source)
}

pub(super) fn io(op: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        op,
        path: path.to_path_buf(),
        source,
    }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(io("create", path, error))
        }
        _ => Ok(()),
    }
}

fn read(path: &Path, limit: u64) -> Result<String, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|source| io("read", path, source))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Takes `user:password@` out of an HTTP URL, decoded; other remotes need theirs.
fn without_credentials(remote: &str) -> (String, Option<String>) {
    let kept = || (remote.to_owned(), None);
    let Some((scheme, rest)) = remote.split_once("://") else {
        return kept();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let Some((user, host)) = rest[..end].rsplit_once('@') else {
        return kept();
    };
    if !scheme.starts_with("http") {
        return kept();
    }
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let login = format!("{}:{}", percent_decoded(name), percent_decoded(password));
    (format!("{scheme}://{host}{}", &rest[end..]), Some(login))
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let byte = match tail {
            [a, b, ..] if *first == b'%' => std::str::from_utf8(&[*a, *b])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The header that the secrets give for a remote: those for its host first, headers before tokens.
fn login(sources: &Sources<'_>, remote: &str) -> Result<Option<String>, Error> {
    let rest = remote.split_once("://").map_or(remote, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    for suffix in [format!(".{host}"), String::new()] {
        if let Some(header) = sources.credential(&format!("GIT_AUTH_HEADER{suffix}"))? {
            return Ok(Some(header));
        }
        if let Some(token) = sources.credential(&format!("GIT_AUTH_TOKEN{suffix}"))? {
            let login = format!("x-access-token:{token}");
            return Ok(Some(format!("basic {}", BASE64.encode(login))));
        }
    }
    Ok(None)
}

/// For which URLs a login counts: the remote's own; all of github.com's, where submodules mostly are too.
fn token_scope(remote: &str) -> &str {
    ["https://github.com/", "https://www.github.com/"]
        .into_iter()
        .find(|prefix| remote.starts_with(prefix))
        .unwrap_or(remote)
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A path as an argument.
pub(super) fn text(path: &Path) -> Result<&str, Error> {
    OsStr::to_str(path.as_os_str()).ok_or_else(|| {
        Error::Request(format!(
            "{} is not UTF-8: git sources need a store whose path is",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_the_remote() {
        for (remote, clean, login) in [
            (
                "https://me:p%40w@h/x.git",
                "https://h/x.git",
                Some("me:p@w"),
            ),
            ("https://tok@h/x.git", "https://h/x.git", Some("tok:")),
            ("https://h/a@b.git", "https://h/a@b.git", None),
            ("ssh://git@h/x.git", "ssh://git@h/x.git", None),
            ("git@h:x.git", "git@h:x.git", None),
        ] {
            let got = without_credentials(remote);
            assert_eq!(
                got,
                (clean.to_owned(), login.map(str::to_owned)),
                "{remote}"
            );
        }
    }
}
