//! Credential helpers: programs `docker-credential-NAME` that keep secrets (in a keychain, or with a cloud's own login).
//!
//! Specification: the protocol of docker-credential-helpers. A server name or a JSON object goes to standard
//! input, so nothing secret is ever an argument.

use super::{Credential, Secret};
use crate::Error;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Bytes read of what a helper prints.
const OUTPUT_LIMIT: u64 = 256 * 1024;
/// The user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What helpers answer for a server they know nothing about.
const NOT_FOUND: &str = "credentials not found";
/// How often it is looked whether a helper has ended.
const POLL: Duration = Duration::from_millis(5);

/// How helpers are started.
#[derive(Clone, Copy, Debug)]
pub struct HelperSettings {
    /// Called before the start.
    pub prepare: Option<fn(&mut Command)>,
    /// Longest run.
    pub timeout: Duration,
}

/// One helper, and where it is configured.
#[derive(Clone, Debug)]
pub(super) struct Helper<'a> {
    /// `pass` for `docker-credential-pass`.
    pub(super) name: &'a str,
    /// The file that names it.
    pub(super) configured_in: &'a str,
    pub(super) settings: HelperSettings,
}

/// What a helper knows.
#[derive(Clone)]
pub(super) enum Kept {
    Password(String, Secret),
    Identity(Secret),
}

impl Kept {
    pub(super) fn into_credential(self) -> Credential {
        match self {
            Self::Password(username, password) => Credential::Password { username, password },
            Self::Identity(token) => Credential::Identity(token),
        }
    }
}

impl Helper<'_> {
    pub(super) fn get(&self, server: &str) -> Result<Option<Kept>, Error> {
        let (status, output) = self.run("get", server, server.as_bytes())?;
        if !status.success() {
            let text = String::from_utf8_lossy(&output);
            if text.contains(NOT_FOUND) {
                return Ok(None);
            }
            return Err(self.failed("get", server, &complaint(status, &output)));
        }
        // The parser's message could quote the secret.
        let answer: Value = serde_json::from_slice(&output)
            .map_err(|_| self.failed("get", server, "its answer is not JSON"))?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        let (username, secret) = (text("Username"), text("Secret"));
        if secret.is_empty() && username.is_empty() {
            return Ok(None);
        }
        let secret = Secret::new(secret);
        Ok(Some(match username {
            TOKEN_USER => Kept::Identity(secret),
            username => Kept::Password(username.to_owned(), secret),
        }))
    }

    pub(super) fn store(&self, server: &str, kept: &Kept) -> Result<(), Error> {
        let (username, secret) = match kept {
            Kept::Password(username, secret) => (username.as_str(), secret),
            Kept::Identity(secret) => (TOKEN_USER, secret),
        };
        let input = json!({
            "ServerURL": server, "Username": username, "Secret": secret.expose(),
        });
        let (status, output) = self.run("store", server, input.to_string().as_bytes())?;
        if status.success() {
            return Ok(());
        }
        let complaint = complaint(status, &output).replace(secret.expose(), "REDACTED");
        Err(self.failed("store", server, &complaint))
    }

    pub(super) fn erase(&self, server: &str) -> Result<(), Error> {
        let (status, output) = self.run("erase", server, server.as_bytes())?;
        if status.success() || String::from_utf8_lossy(&output).contains(NOT_FOUND) {
            return Ok(());
        }
        Err(self.failed("erase", server, &complaint(status, &output)))
    }

    /// The servers it has something for.
    pub(super) fn list(&self) -> Result<Vec<String>, Error> {
        let (status, output) = self.run("list", "", b"")?;
        if !status.success() {
            return Err(self.failed("list", "", &complaint(status, &output)));
        }
        let answer: Value = serde_json::from_slice(&output)
            .map_err(|_| self.failed("list", "", "its answer is not JSON"))?;
        let servers = answer.as_object().into_iter().flatten();
        Ok(servers.map(|(server, _)| server.clone()).collect())
    }

    fn program(&self) -> String {
        format!("docker-credential-{}", self.name)
    }

    fn failed(&self, action: &'static str, server: &str, reason: &str) -> Error {
        Error::Helper {
            helper: format!("{}, which {}", self.program(), self.configured_in).into(),
            action,
            registry: server.into(),
            reason: reason.into(),
            source: None,
        }
    }

    fn io(&self, action: &'static str, server: &str, error: std::io::Error) -> Error {
        let reason = match error.kind() {
            ErrorKind::NotFound => "the program is not installed",
            _ => "it could not be run",
        };
        Error::Helper {
            helper: format!("{}, which {}", self.program(), self.configured_in).into(),
            action,
            registry: server.into(),
            reason: reason.into(),
            source: Some(error),
        }
    }

    fn run(
        &self,
        action: &'static str,
        server: &str,
        input: &[u8],
    ) -> Result<(ExitStatus, Vec<u8>), Error> {
        if self.name.is_empty() || self.name.contains(['/', '\0']) {
            return Err(self.failed(action, server, "its name cannot be that of a program"));
        }
        let started = Instant::now();
        let mut command = Command::new(self.program());
        command
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(prepare) = self.settings.prepare {
            prepare(&mut command);
        }
        let mut child = command
            .spawn()
            .map_err(|error| self.io(action, server, error))?;
        let output = reader(&mut child);
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that needs no input may have closed it.
            let _ = stdin.write_all(input);
        }
        let status = self.wait(&mut child, started, action, server)?;
        let left = Duration::from_secs(1);
        let output = output.recv_timeout(left).unwrap_or_default();
        tracing::debug!(
            helper = self.program(),
            action,
            server,
            status = status.code(),
            "credential helper ended"
        );
        Ok((status, output))
    }

    fn wait(
        &self,
        child: &mut Child,
        started: Instant,
        action: &'static str,
        server: &str,
    ) -> Result<ExitStatus, Error> {
        loop {
            let ended = child.try_wait();
            if let Some(status) = ended.map_err(|error| self.io(action, server, error))? {
                return Ok(status);
            }
            if started.elapsed() > self.settings.timeout {
                let _ = child.kill();
                let _ = child.wait();
                let seconds = self.settings.timeout.as_secs_f32();
                let reason = format!("it did not answer within {seconds} seconds");
                return Err(self.failed(action, server, &reason));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Reads standard output on a thread of its own, so that neither side waits for the other for ever.
fn reader(child: &mut Child) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut output = Vec::new();
            let _ = stdout.take(OUTPUT_LIMIT).read_to_end(&mut output);
            let _ = sender.send(output);
        });
    }
    receiver
}

/// The first line of what a failed helper says.
fn complaint(status: ExitStatus, output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    // An answer all the same, which has a secret in it.
    match line.filter(|line| !line.starts_with('{')) {
        Some(line) => crate::registry_message::clean(line),
        None => status.to_string(),
    }
}
