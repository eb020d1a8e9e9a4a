//! `kiln push`. Progress goes to stderr in docker's words; the digest (with `--quiet` the name) to stdout.

use super::{Opener, print_line};
use crate::args::{PushArgs, PushFormat};
use crate::commands::build::watch_signals;
use crate::commands::metadata::write_file;
use crate::environment::Environment;
use crate::error::Failure;
use crate::progress::lines::{self, Lines, short};
use crate::registry_options::client_options;
use executor::push::{Choice, LayerEvent, StoredPush, Style, Target, Watcher};
use executor::remote::Remote;
use executor::space::Space;
use planner::scheduler::Cancel;
use registry_client::{PushedHow, Reference};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// Pushes an image to one or more places, or all tags of a repository.
pub fn run(args: &PushArgs, open: &Opener<'_>, environment: &Environment) -> Result<(), Failure> {
    let how = how(args)?;
    if let Some(path) = &args.digest_file {
        crate::build_spec::check_file(path)?;
    }
    let targets = targets(args)?;
    let client = client_options(&args.registry, environment)?;
    let space = open.space()?;
    let jobs = jobs(args, targets, &space)?;
    let cancel = Cancel::default();
    let remote = Remote::new(&client, &cancel);
    let signals = watch_signals(&cancel)?;
    let display = Display::new(args.quiet, environment.terminal);
    let mut digests = Vec::new();
    let pushed: Result<(), Failure> = jobs.iter().try_for_each(|(image, targets)| {
        digests.push(one(
            &space,
            &remote,
            (image, targets),
            &how,
            (&display, &cancel),
        )?);
        Ok(())
    });
    display.clear();
    signals.close();
    match pushed {
        Err(_) if cancel.is_cancelled() => return Err(Failure::Interrupted),
        pushed => pushed?,
    }
    if let Some(path) = &args.digest_file {
        write_file(path, digests.join("\n").as_bytes())?;
    }
    Ok(())
}

/// An image of the store, and where it goes.
type Job = (String, Vec<Target>);

fn one(
    space: &Space,
    remote: &Remote,
    (image, targets): (&str, &[Target]),
    how: &StoredPush,
    (display, cancel): (&Display, &Cancel),
) -> Result<String, Failure> {
    let mut told = HashSet::new();
    for target in targets {
        let repository = shown(&target.reference);
        if told.insert(repository.clone()) {
            display.say(&format!("The push refers to repository [{repository}]"));
        }
    }
    display.begin();
    let pushed =
        executor::push::push_stored(space, remote, image, (targets, how), (display, cancel))?;
    display.clear();
    for target in targets {
        let reference = &target.reference;
        if display.lines.is_quiet() {
            print_line(&reference.familiar());
            continue;
        }
        let tag = reference.tag.as_deref().unwrap_or(&pushed.digest);
        let line = format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size);
        // With several it has to be said whose digest it is.
        if targets.len() > 1 {
            let name = Reference {
                tag: None,
                digest: None,
                ..reference.clone()
            };
            print_line(&format!("{}:{line}", name.familiar()));
        } else {
            print_line(&line);
        }
    }
    Ok(pushed.digest)
}

fn how(args: &PushArgs) -> Result<StoredPush, Failure> {
    let packing = executor::push::Packing::parse(
        args.compression.as_deref(),
        args.compression_level,
        args.force_compression,
    )
    .map_err(Failure::Usage)?;
    let style = args.format.map(|format| match format {
        PushFormat::Oci => Style::Oci,
        PushFormat::Docker => Style::Docker,
    });
    if style == Some(Style::Docker) && !packing.fits_docker() {
        let message = "zstd and estargz layers need --format oci".to_owned();
        return Err(Failure::Usage(message));
    }
    let choice = match super::platform(args.platform.as_deref())? {
        Some(platform) => Choice::Platform(platform),
        None => Choice::All,
    };
    let is_default = args.compression.is_none() && args.compression_level.is_none();
    Ok(StoredPush {
        packing,
        keep_published: is_default && !args.force_compression,
        style,
        choice,
    })
}

/// The places that are named, checked before anything is opened.
fn targets(args: &PushArgs) -> Result<Vec<Target>, Failure> {
    let target = |text: &String| {
        let named = text.strip_prefix("docker://").unwrap_or(text);
        let transport = named.split_once(':').map(|(transport, _)| transport);
        if let Some(
            transport @ ("oci" | "oci-archive" | "docker-archive" | "docker-daemon" | "dir"
            | "containers-storage"),
        ) = transport
        {
            return Err(Failure::Usage(format!(
                "push goes to registries, not to {transport}: (kiln save writes archives)"
            )));
        }
        let reference = Reference::parse(named).map_err(|error| invalid(&error))?;
        without_digest(&reference, text)?;
        Ok(Target { reference })
    };
    args.destinations.iter().map(target).collect()
}

fn without_digest(reference: &Reference, text: &str) -> Result<(), Failure> {
    if reference.digest.is_some() {
        return Err(Failure::Usage(format!(
            "cannot push to {text}: a digest reference is no destination, give a tag"
        )));
    }
    Ok(())
}

/// Docker's words.
fn invalid(error: &registry_client::Error) -> Failure {
    match error {
        registry_client::Error::Reference { reason, .. } => {
            Failure::Usage(format!("invalid reference format: {reason}"))
        }
        error => Failure::from_error(error),
    }
}

fn jobs(args: &PushArgs, targets: Vec<Target>, space: &Space) -> Result<Vec<Job>, Failure> {
    let image = args.image.strip_prefix("docker://").unwrap_or(&args.image);
    let bare = image.rsplit('/').next().unwrap_or(image);
    if args.all_tags {
        if bare.contains([':', '@']) {
            let message = "tag can't be used with --all-tags/-a".to_owned();
            return Err(Failure::Usage(message));
        }
        let names = executor::push::names_of_repository(space, image)?;
        if names.is_empty() {
            let reference = Reference::parse(image).map_err(|error| invalid(&error))?;
            return Err(absent(&reference));
        }
        let job = |name: String| {
            let reference = Reference::parse(&name).map_err(|error| invalid(&error))?;
            Ok((name, vec![Target { reference }]))
        };
        return names.into_iter().map(job).collect();
    }
    if !targets.is_empty() {
        executor::output::find(space, image).map_err(|error| not_there(error, image))?;
        return Ok(vec![(image.to_owned(), targets)]);
    }
    let found = executor::output::find(space, image).map_err(|error| not_there(error, image))?;
    let named = Reference::parse(image);
    let own = if found.name.is_empty() {
        image
    } else {
        &found.name
    };
    let reference = match named {
        Ok(reference) if reference.to_string() == found.name => reference,
        // By ID or digest: its name says where it goes.
        _ => Reference::parse(own).map_err(|_| {
            Failure::Other(format!(
                "{image} has no name that says where to push it: give a DESTINATION, or a name with kiln tag"
            ))
        })?,
    };
    without_digest(&reference, image)?;
    Ok(vec![(image.to_owned(), vec![Target { reference }])])
}

/// Docker's words for an image that the store does not have.
fn not_there(error: executor::Error, image: &str) -> Failure {
    match (&error, Reference::parse(image)) {
        (executor::Error::NoSuchImage(_), Ok(reference)) => absent(&reference),
        _ => error.into(),
    }
}

fn absent(reference: &Reference) -> Failure {
    let name = Reference {
        tag: None,
        digest: None,
        ..reference.clone()
    };
    Failure::Other(format!(
        "An image does not exist locally with the tag: {}\nhint: kiln images lists what there is; kiln tag gives an image another name",
        name.familiar()
    ))
}

/// A repository without the tag, as docker shows it.
fn shown(reference: &Reference) -> String {
    reference.name()
}

/// Lines of what is done, and on a terminal below them a line of what is being done.
struct Display {
    lines: Lines,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes sent, and in all where that is known, by layer.
    under_way: HashMap<String, (u64, Option<u64>)>,
    said: HashSet<String>,
}

impl Display {
    fn new(quiet: bool, terminal: bool) -> Self {
        Self {
            lines: Lines::new(quiet, terminal),
            state: Mutex::default(),
        }
    }

    fn begin(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.under_way.clear();
        state.said.clear();
    }

    fn say(&self, line: &str) {
        self.lines.say(line);
    }

    /// Removes the line of what is being done.
    fn clear(&self) {
        self.lines.clear();
    }

    fn sent(&self, layer: &str, sent: u64, total: Option<u64>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.under_way.insert(layer.to_owned(), (sent, total));
        self.lines.draw(|| {
            let sent = state.under_way.values().map(|(sent, _)| sent).sum();
            let layers = lines::layers(state.under_way.len());
            let totals: Option<u64> = state.under_way.values().map(|(_, total)| *total).sum();
            let of = totals.map_or(String::new(), |total| {
                format!(" of {}", crate::table::size(total))
            });
            format!("Pushing {layers}: {}{of}", crate::table::size(sent))
        });
    }
}

impl Watcher for Display {
    fn layer(&self, layer: &str, event: LayerEvent) {
        let how = match event {
            LayerEvent::Sent(sent, total) => return self.sent(layer, sent, total),
            LayerEvent::Done(PushedHow::Existed) => "Layer already exists",
            LayerEvent::Done(PushedHow::Mounted) => "Mounted",
            LayerEvent::Done(PushedHow::Uploaded) => "Pushed",
        };
        let line = format!("{}: {how}", short(layer));
        let is_new = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.under_way.remove(layer);
            state.said.insert(line.clone())
        };
        if is_new {
            self.say(&line);
        }
    }

    fn manifest(&self, _: &Reference, _: &str) {}

    fn note(&self, text: &str) {
        self.say(&format!("note: {text}"));
    }
}
