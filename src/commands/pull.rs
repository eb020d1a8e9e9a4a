//! `kiln pull`. Progress goes to stderr in docker's words; the full name of what was pulled to stdout.

use super::{Opener, print_line};
use crate::args::PullArgs;
use crate::commands::build::watch_signals;
use crate::environment::Environment;
use crate::error::Failure;
use crate::progress::lines::{self, Lines, short};
use crate::registry_options::client_options;
use executor::pull::{PullOptions, Watch};
use executor::remote::Remote;
use executor::space::Space;
use planner::platform::Platform;
use planner::scheduler::Cancel;
use registry_client::Reference;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Pulls one image after the other.
pub fn run(args: &PullArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    let host = Platform::host();
    let platforms = args.platform.iter().map(|text| {
        Platform::parse(text, &host).map_err(|error| {
            Failure::Usage(format!("invalid value {text:?} for '--platform': {error}"))
        })
    });
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let options = PullOptions {
        platforms: platforms.collect::<Result<_, _>>()?,
        all_platforms: args.all_platforms,
        unpack: args.unpack,
        now: since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0)),
    };
    let client = client_options(&args.registry, environment)?;
    for image in &args.images {
        check(image, args.all_tags)?;
    }
    let space = open.space()?;
    let cancel = Cancel::default();
    let remote = Remote::new(&client, &cancel);
    let signals = watch_signals(&cancel)?;
    let display = Display::new(args.quiet, environment.terminal);
    let work = Work {
        space: &space,
        remote: &remote,
        options: &options,
        display: &display,
        cancel: &cancel,
    };
    let pulled = args.images.iter().try_for_each(|image| {
        if args.all_tags {
            work.all_tags(image)
        } else {
            work.one(image)
        }
    });
    display.clear();
    signals.close();
    match pulled {
        Err(_) if cancel.is_cancelled() => Err(Failure::Interrupted),
        pulled => pulled,
    }
}

/// Refuses what is no name, before anything is opened or asked.
fn check(image: &str, all_tags: bool) -> Result<(), Failure> {
    let reference = Reference::parse(image).map_err(|error| invalid(&error))?;
    let bare = image.rsplit('/').next().unwrap_or(image);
    if all_tags && (reference.digest.is_some() || bare.contains(':')) {
        let message = "tag can't be used with --all-tags/-a".to_owned();
        return Err(Failure::Usage(message));
    }
    Ok(())
}

/// Docker's words.
fn invalid(error: &registry_client::Error) -> Failure {
    match error {
        registry_client::Error::Reference { reason, .. } => {
            Failure::Other(format!("invalid reference format: {reason}"))
        }
        error => Failure::from_error(error),
    }
}

struct Work<'a> {
    space: &'a Space,
    remote: &'a Remote,
    options: &'a PullOptions,
    display: &'a Display,
    cancel: &'a Cancel,
}

impl Work<'_> {
    fn one(&self, image: &str) -> Result<(), Failure> {
        let bare = image.rsplit('/').next().unwrap_or(image);
        if !bare.contains([':', '@']) {
            self.display.say("Using default tag: latest");
        }
        let candidates = executor::pull::candidates(self.remote, image)?;
        let name = executor::pull::first_of(image, &candidates, |reference| self.pull(reference))?;
        print_line(&name);
        Ok(())
    }

    fn all_tags(&self, image: &str) -> Result<(), Failure> {
        let candidates = executor::pull::candidates(self.remote, image)?;
        let (reference, tags) = executor::pull::first_of(image, &candidates, |reference| {
            let tags = executor::pull::tags(self.remote, reference)?;
            Ok((reference.clone(), tags))
        })?;
        if tags.is_empty() {
            let message = format!("{} has no tags", reference.name());
            return Err(Failure::Other(message));
        }
        for tag in tags {
            let tagged = format!("{}:{tag}", reference.name());
            let tagged = Reference::parse(&tagged).map_err(|error| invalid(&error))?;
            self.pull(&tagged)?;
        }
        print_line(&reference.name());
        Ok(())
    }

    fn pull(&self, reference: &Reference) -> Result<String, executor::Error> {
        let selector = reference.digest.as_ref().or(reference.tag.as_ref());
        let selector = selector.map_or("latest", String::as_str);
        self.display
            .say(&format!("{selector}: Pulling from {}", shown(reference)));
        let watching = (self.display as &dyn Watch, self.cancel);
        let pulled =
            executor::pull::pull(self.space, self.remote, reference, self.options, watching)?;
        self.display.ended();
        self.display.say(&format!("Digest: {}", pulled.digest));
        let status = if pulled.is_newer {
            "Downloaded newer image"
        } else {
            "Image is up to date"
        };
        self.display
            .say(&format!("Status: {status} for {}", pulled.familiar));
        Ok(pulled.name)
    }
}

/// A repository without the registry where it is Docker's.
fn shown(reference: &Reference) -> String {
    if reference.registry == "docker.io" {
        reference.repository.clone()
    } else {
        reference.name()
    }
}

/// Lines of what is done, and on a terminal below them a line of what is being done.
struct Display {
    lines: Lines,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes here and in all, by digest.
    under_way: HashMap<String, (u64, u64)>,
}

impl Display {
    fn new(quiet: bool, terminal: bool) -> Self {
        Self {
            lines: Lines::new(quiet, terminal),
            state: Mutex::default(),
        }
    }

    fn say(&self, line: &str) {
        self.lines.say(line);
    }

    /// Removes the line of what is being done.
    fn clear(&self) {
        self.lines.clear();
    }

    /// All that was under way has arrived.
    fn ended(&self) {
        let left: Vec<String> = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.under_way.drain().map(|(digest, _)| digest).collect()
        };
        for digest in left {
            self.say(&format!("{}: Pull complete", short(&digest)));
        }
    }
}

impl Watch for Display {
    fn layers(&self, layers: &[(String, u64, bool)]) {
        for (digest, size, is_here) in layers {
            if *is_here {
                self.say(&format!("{}: Already exists", short(digest)));
            } else {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.under_way.insert(digest.clone(), (0, *size));
            }
        }
    }

    fn transfer(&self, digest: &str, done: u64, total: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if done >= total {
            state.under_way.remove(digest);
            drop(state);
            self.say(&format!("{}: Pull complete", short(digest)));
            return;
        }
        state.under_way.insert(digest.to_owned(), (done, total));
        self.lines.draw(|| {
            let (mut here, mut all) = (0, 0);
            for (done, total) in state.under_way.values() {
                here += done;
                all += total;
            }
            let layers = lines::layers(state.under_way.len());
            let (here, all) = (crate::table::size(here), crate::table::size(all));
            format!("Downloading {layers}: {here} of {all}")
        });
    }
}
