//! `kiln manifest`.

use super::connect::{Connection, connect};
use super::{Opener, now, print_line};
use crate::args::{
    EntryArgs, ManifestAddArgs, ManifestAnnotateArgs, ManifestArgs, ManifestCommand,
    ManifestCreateArgs, ManifestFormat, ManifestInspectArgs, ManifestPushArgs, ManifestRemoveArgs,
    ManifestRmArgs, RegistryArgs,
};
use crate::environment::Environment;
use crate::error::Failure;
use executor::push::Style;
use executor::space::Space;
use executor::tools::{CreateOptions, EntryOptions, ListPush, Lists, ordered, reindented};
use std::collections::BTreeMap;

/// Runs a subcommand.
pub fn run(
    args: &ManifestArgs,
    open: &Opener<'_>,
    environment: &Environment,
) -> Result<(), Failure> {
    let with = |registry: &RegistryArgs| Session::new(open, registry, environment);
    let local = || Session::new(open, &RegistryArgs::default(), environment);
    match &args.command {
        ManifestCommand::Create(args) => create(args, &with(&args.registry)?),
        ManifestCommand::Add(args) => add(args, &with(&args.registry)?),
        ManifestCommand::Annotate(args) => annotate(args, &local()?),
        ManifestCommand::Remove(args) => remove(args, &local()?),
        ManifestCommand::Rm(args) => rm(args, &local()?),
        ManifestCommand::Exists(args) => {
            let session = local()?;
            match session.done(session.lists().exists(&args.list))? {
                true => Ok(()),
                false => Err(Failure::Told),
            }
        }
        ManifestCommand::Inspect(args) => inspect(args, &with(&args.registry)?),
        ManifestCommand::Push(args) => push(args, &with(&args.registry)?),
    }
}

/// The store and a client.
struct Session {
    space: Space,
    connection: Connection,
}

impl Session {
    fn new(
        open: &Opener<'_>,
        registry: &RegistryArgs,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        Ok(Self {
            connection: connect(registry, environment)?,
            space: open.space()?,
        })
    }

    fn lists(&self) -> Lists<'_> {
        Lists::new(&self.space, &self.connection.remote, now())
    }

    fn done<T>(&self, ended: Result<T, executor::Error>) -> Result<T, Failure> {
        ended.map_err(|error| self.connection.failed(error))
    }
}

fn create(args: &ManifestCreateArgs, session: &Session) -> Result<(), Failure> {
    let options = CreateOptions {
        amend: args.amend,
        all: args.all,
        annotations: annotations(&args.annotations)?,
    };
    let name = session.done(session.lists().create(&args.list, &args.images, &options))?;
    print_line(&format!("Created manifest list {name}"));
    Ok(())
}

fn add(args: &ManifestAddArgs, session: &Session) -> Result<(), Failure> {
    let options = entry(&args.entry)?;
    let mut digest = String::new();
    for image in &args.images {
        digest = session.done(session.lists().add(&args.list, image, args.all, &options))?;
    }
    print_line(&digest);
    Ok(())
}

fn annotate(args: &ManifestAnnotateArgs, session: &Session) -> Result<(), Failure> {
    let options = entry(&args.entry)?;
    let lists = session.lists();
    let mut digest = String::new();
    if args.index {
        digest = session.done(lists.annotate_index(&args.list, &options.annotations))?;
    }
    if let Some(image) = &args.image {
        let options = EntryOptions {
            annotations: if args.index {
                BTreeMap::new()
            } else {
                options.annotations.clone()
            },
            ..options
        };
        digest = session.done(lists.annotate(&args.list, image, &options))?;
    }
    print_line(&digest);
    Ok(())
}

fn remove(args: &ManifestRemoveArgs, session: &Session) -> Result<(), Failure> {
    let mut list = String::new();
    for digest in &args.digests {
        list = session.done(session.lists().remove_entry(&args.list, digest))?;
    }
    print_line(&list);
    Ok(())
}

fn rm(args: &ManifestRmArgs, session: &Session) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for list in &args.lists {
        match session.lists().remove(list) {
            Ok((name, digest)) => {
                print_line(&format!("Untagged: {name}"));
                print_line(&format!("Deleted: {digest}"));
            }
            Err(error) => failures.push(executor::error::chain(&error)),
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure::Other(failures.join("\n")))
}

fn inspect(args: &ManifestInspectArgs, session: &Session) -> Result<(), Failure> {
    let lists = session.lists();
    let (list, name) = match args.names.as_slice() {
        [list, name] => (Some(list), name),
        names => (None, &names[0]),
    };
    let text = if args.verbose {
        let shown = match list {
            Some(list) => lists.inspect_entry_verbose(list, name),
            None => lists.inspect_verbose(name),
        };
        ordered(&session.done(shown)?)
    } else {
        session.done(match list {
            Some(list) => lists.inspect_entry(list, name),
            None => lists.inspect(name),
        })?
    };
    print_line(&reindented(&String::from_utf8_lossy(&text), "   "));
    Ok(())
}

fn push(args: &ManifestPushArgs, session: &Session) -> Result<(), Failure> {
    let options = ListPush {
        all: args.all,
        style: args.format.map(|format| match format {
            ManifestFormat::Oci => Style::Oci,
            ManifestFormat::V2s2 => Style::Docker,
        }),
    };
    let say = |line: &str| {
        if !args.quiet && line.starts_with("Pushed ref ") {
            print_line(line);
        }
    };
    let lists = session.lists();
    let pushed = lists.push(&args.list, args.destination.as_deref(), options, &say);
    let digest = session.done(pushed)?;
    if let Some(path) = &args.digestfile {
        std::fs::write(path, &digest).map_err(|error| {
            Failure::Other(format!("could not write {}: {error}", path.display()))
        })?;
    }
    if args.purge {
        session.done(lists.remove(&args.list))?;
    }
    print_line(&digest);
    Ok(())
}

/// `KEY=VALUE` flags.
fn annotations(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    given
        .iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Failure::Usage(format!(
                "invalid annotation {text:?}, expected key=value"
            ))),
        })
        .collect()
}

fn entry(args: &EntryArgs) -> Result<EntryOptions, Failure> {
    Ok(EntryOptions {
        os: args.os.clone(),
        arch: args.arch.clone(),
        variant: args.variant.clone(),
        os_version: args.os_version.clone(),
        os_features: args.os_features.clone(),
        features: args.features.clone(),
        annotations: annotations(&args.annotations)?,
    })
}
