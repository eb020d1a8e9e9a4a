//! Programs that take an image on standard input: `podman load`, `ctr images import`.

use crate::Error;
use crate::request::Receiver;
use planner::scheduler::Cancel;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

/// How much of what a program writes is kept.
const OUTPUT_LIMIT: u64 = 16 << 20;
const TICK: Duration = Duration::from_millis(20);

/// One of them.
pub(crate) struct Program<'a> {
    name: &'static str,
    leading: Vec<String>,
    search_path: &'a str,
    cancel: &'a Cancel,
}

impl<'a> Program<'a> {
    pub(crate) fn podman(search_path: &'a str, cancel: &'a Cancel) -> Self {
        Self {
            name: "podman",
            leading: Vec::new(),
            search_path,
            cancel,
        }
    }

    pub(crate) fn containerd(
        namespace: Option<&str>,
        search_path: &'a str,
        cancel: &'a Cancel,
    ) -> Self {
        let leading = namespace.map(|name| format!("--namespace={name}"));
        Self {
            name: "ctr",
            leading: leading.into_iter().collect(),
            search_path,
            cancel,
        }
    }

    /// The one that a receiver stands for; `None` for a daemon.
    pub(crate) fn of(
        receiver: &Receiver,
        search_path: &'a str,
        cancel: &'a Cancel,
    ) -> Option<Self> {
        match receiver {
            Receiver::Docker(_) => None,
            Receiver::Podman => Some(Self::podman(search_path, cancel)),
            Receiver::Containerd { namespace } => {
                Some(Self::containerd(namespace.as_deref(), search_path, cancel))
            }
        }
    }

    /// Asks whether it works at all.
    pub(crate) fn probe(&self) -> Result<(), Error> {
        let args: &[&str] = if self.name == "ctr" {
            &["version"]
        } else {
            &["--version"]
        };
        self.run(args)
            .map(drop)
            .map_err(|source| self.failed(source))
    }

    /// Whether Podman has an image.
    pub(crate) fn has_image(&self, id: &str) -> io::Result<bool> {
        let mut running = self.start(&["image", "exists", id], Stdio::null())?;
        Ok(running.wait(self.cancel)?.0)
    }

    /// Digests that containerd has.
    pub(crate) fn content(&self) -> io::Result<BTreeSet<String>> {
        Ok(self
            .run(&["content", "ls", "-q"])?
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Runs it to its end; what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> io::Result<String> {
        let mut running = self.start(args, Stdio::null())?;
        running.outcome(self.cancel)
    }

    /// Runs it on what `write` writes.
    pub(crate) fn feed(
        &self,
        args: &[&str],
        write: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let fail = |source| self.failed(source);
        let mut running = self.start(args, Stdio::piped()).map_err(fail)?;
        let mut input = running.input.take().expect("BUG: standard input is a pipe");
        let written = write(&mut input);
        if written.is_err() && self.cancel.is_cancelled() {
            return written;
        }
        // The end of the input, whole or not. A program that fails says why, which counts more than a broken pipe.
        drop(input);
        running.outcome(self.cancel).map_err(fail)?;
        written
    }

    fn start(&self, args: &[&str], input: Stdio) -> io::Result<Running> {
        let mut command = Command::new(self.name);
        if !self.search_path.is_empty() {
            command.env("PATH", self.search_path);
        }
        command.args(&self.leading).args(args);
        command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        sandbox::end_with_caller(&mut command);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::new(
                error.kind(),
                format!("the program {} is not installed", self.name),
            ),
            _ => error,
        })?;
        let collect = |stream: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                if let Some(stream) = stream {
                    // What is there is what is told.
                    let _ = stream.take(OUTPUT_LIMIT).read_to_end(&mut text);
                }
                String::from_utf8_lossy(&text).into_owned()
            })
        };
        let output = collect(child.stdout.take().map(|stream| Box::new(stream) as _));
        let complaints = collect(child.stderr.take().map(|stream| Box::new(stream) as _));
        Ok(Running {
            input: child.stdin.take(),
            child,
            output: Some(output),
            complaints: Some(complaints),
        })
    }

    pub(crate) fn failed(&self, source: io::Error) -> Error {
        Error::Load {
            receiver: if self.name == "ctr" {
                "containerd"
            } else {
                "Podman"
            }
            .to_owned(),
            source,
        }
    }
}

type Collected = Option<std::thread::JoinHandle<String>>;

/// One run; the program ends with it.
struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Collected,
    complaints: Collected,
}

impl Running {
    /// Whether it succeeded, with both outputs.
    fn wait(&mut self, cancel: &Cancel) -> io::Result<(bool, String, String)> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            std::thread::sleep(TICK);
        };
        let text = |thread: &mut Collected| {
            thread
                .take()
                .and_then(|thread| thread.join().ok())
                .unwrap_or_default()
        };
        Ok((
            status.success(),
            text(&mut self.output),
            text(&mut self.complaints),
        ))
    }

    fn outcome(&mut self, cancel: &Cancel) -> io::Result<String> {
        let (is_success, output, complaints) = self.wait(cancel)?;
        if is_success {
            return Ok(output);
        }
        let lines: Vec<&str> = complaints
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n");
        Err(io::Error::other(if last.is_empty() {
            "it failed and said nothing".to_owned()
        } else {
            last
        }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It is gone already unless something went wrong here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
