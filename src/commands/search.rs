//! `kiln search`, `catalog` and `tags`: what registries list.

use super::connect::{Connection, connect};
use super::{print, print_line};
use crate::args::{CatalogArgs, SearchArgs, TagsArgs};
use crate::environment::Environment;
use crate::error::Failure;
use crate::template::{Columns, List};
use registry_client::{Found, Reference};
use serde_json::{Value, json};
use std::io::Write as _;

/// Characters of a description without `--no-trunc`.
const SHORT: usize = 45;

const COLUMNS: Columns<'_> = Columns {
    type_name: "*search.searchContext",
    default: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
    headings: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
        ("IsAutomated", "AUTOMATED"),
    ],
};

const TAG_COLUMNS: Columns<'_> = Columns {
    type_name: "*search.listTagsContext",
    default: "{{.Name}}\t{{.Tag}}",
    headings: &[("Name", "NAME"), ("Tag", "TAG")],
};

/// Searches a registry, or lists the tags of a repository.
pub fn run(args: &SearchArgs, environment: &Environment) -> Result<(), Failure> {
    let filters = Filters::parse(&args.filters)?;
    let columns = if args.list_tags { TAG_COLUMNS } else { COLUMNS };
    let list = List::new(args.format.as_deref(), columns)?;
    let connection = connect(&args.registry, environment)?;
    let rows = if args.list_tags {
        let reference = repository(&args.term)?;
        let mut tags = tags_of(&connection, &reference)?;
        tags.truncate(args.limit.into());
        let name = reference.name();
        let row = |tag: &String| json!({"Name": name, "Tag": tag});
        tags.iter().map(row).collect()
    } else {
        let mut found = found(args, &connection)?;
        found.retain(|found| filters.fit(found));
        found.truncate(args.limit.into());
        found
            .iter()
            .map(|found| row(found, args))
            .collect::<Vec<Value>>()
    };
    print(&list.render(&rows)?);
    Ok(())
}

/// Prints the repositories of a registry.
pub fn catalog(args: &CatalogArgs, environment: &Environment) -> Result<(), Failure> {
    let connection = connect(&args.registry, environment)?;
    let repositories = connection.remote.catalog(args.host.trim_end_matches('/'));
    for name in repositories.map_err(|error| connection.failed(error))? {
        print_line(&name);
    }
    Ok(())
}

/// Prints the tags of a repository.
pub fn tags(args: &TagsArgs, environment: &Environment) -> Result<(), Failure> {
    let connection = connect(&args.registry, environment)?;
    for tag in tags_of(&connection, &repository(&args.name)?)? {
        print_line(&tag);
    }
    Ok(())
}

fn repository(text: &str) -> Result<Reference, Failure> {
    let text = text.strip_prefix("docker://").unwrap_or(text);
    Reference::parse(text).map_err(|error| Failure::Usage(error.to_string()))
}

fn tags_of(connection: &Connection, reference: &Reference) -> Result<Vec<String>, Failure> {
    let tags = executor::pull::tags(&connection.remote, reference);
    let mut tags = tags.map_err(|error| connection.failed(error))?;
    tags.sort();
    Ok(tags)
}

/// The registry of a term, which is told as that of a name is, and what to look for there.
fn host_of(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("docker.io", term),
    }
}

fn found(args: &SearchArgs, connection: &Connection) -> Result<Vec<Found>, Failure> {
    let (host, term) = host_of(&args.term);
    let failed = |error| connection.failed(error);
    if let Some(mut found) = connection
        .remote
        .search(host, term, args.limit.into())
        .map_err(failed)?
    {
        if host != "docker.io" {
            for one in &mut found {
                one.name = format!("{host}/{}", one.name);
            }
        }
        return Ok(found);
    }
    let note =
        format!("note: {host} has no search; these are its repositories whose names have {term:?}");
    let _ = writeln!(std::io::stderr(), "{note}");
    let mut names = connection.remote.catalog(host).map_err(failed)?;
    names.retain(|name| name.contains(term));
    names.sort();
    let named = |name: String| Found {
        name: format!("{host}/{name}"),
        ..Found::default()
    };
    Ok(names.into_iter().map(named).collect())
}

fn row(found: &Found, args: &SearchArgs) -> Value {
    let text = found.description.as_deref().unwrap_or_default();
    let text = text.replace(['\n', '\r'], " ");
    let description = if args.no_trunc || text.chars().count() <= SHORT {
        text
    } else {
        text.chars().take(SHORT - 1).chain(['…']).collect()
    };
    let ok = |is: bool| if is { "[OK]" } else { "" };
    json!({
        "Name": found.name,
        "Description": description,
        "StarCount": found.star_count.to_string(),
        "IsOfficial": ok(found.is_official),
        "IsAutomated": ok(found.is_automated),
    })
}

#[derive(Default)]
struct Filters {
    official: Option<bool>,
    automated: Option<bool>,
    stars: u64,
}

impl Filters {
    fn parse(given: &[String]) -> Result<Self, Failure> {
        let mut filters = Self::default();
        for text in given {
            let invalid = || Failure::Usage(format!("invalid filter '{text}'"));
            let (key, value) = text.split_once('=').ok_or_else(invalid)?;
            let flag = || match value {
                "true" | "1" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                _ => Err(invalid()),
            };
            match key {
                "is-official" => filters.official = flag()?,
                "is-automated" => filters.automated = flag()?,
                "stars" => filters.stars = value.parse().map_err(|_| invalid())?,
                _ => return Err(invalid()),
            }
        }
        Ok(filters)
    }

    fn fit(&self, found: &Found) -> bool {
        self.official
            .is_none_or(|wanted| wanted == found.is_official)
            && self
                .automated
                .is_none_or(|wanted| wanted == found.is_automated)
            && found.star_count >= self.stars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it04_the_registry_of_a_term() {
        assert_eq!(host_of("busybox"), ("docker.io", "busybox"));
        assert_eq!(host_of("team/app"), ("docker.io", "team/app"));
        assert_eq!(host_of("localhost/app"), ("localhost", "app"));
        assert_eq!(host_of("reg:5000/team/app"), ("reg:5000", "team/app"));
        assert_eq!(host_of("reg.example/"), ("reg.example", ""));
    }
}
