//! `kiln images`.

use super::print_line;
use crate::args::{ImagesArgs, ListFormat};
use crate::error::Failure;
use crate::table::{self, Table};
use executor::output::ImageSummary;
use executor::space::Space;

/// Lists the store's images.
pub fn run(args: &ImagesArgs, space: &Space) -> Result<(), Failure> {
    let mut images = executor::output::images(space)?;
    if let Some(name) = &args.name {
        images.retain(|image| is_named(image, name));
    }
    if args.quiet {
        for image in &images {
            print_line(&shown_id(&image.id, args.no_trunc));
        }
        return Ok(());
    }
    if args.format == ListFormat::Json {
        for image in &images {
            let line = serde_json::to_string(image).map_err(|error| Failure::from_error(&error))?;
            print_line(&line);
        }
        return Ok(());
    }
    let mut headings = vec!["REPOSITORY", "TAG"];
    if args.digests {
        headings.push("DIGEST");
    }
    headings.extend(["IMAGE ID", "CREATED", "SIZE", "PLATFORMS"]);
    let mut table = Table::new(&headings);
    for image in &images {
        table.row(row(image, args));
    }
    print_line(table.render().trim_end());
    Ok(())
}

fn row(image: &ImageSummary, args: &ImagesArgs) -> Vec<String> {
    let familiar = familiar(&image.name);
    let (repository, tag) = match familiar.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), tag.to_owned()),
        _ if familiar.is_empty() => ("<none>".to_owned(), "<none>".to_owned()),
        _ => (familiar.clone(), "<none>".to_owned()),
    };
    let mut row = vec![repository, tag];
    if args.digests {
        row.push(image.digest.clone());
    }
    row.push(shown_id(&image.id, args.no_trunc));
    row.push(
        image
            .created
            .as_deref()
            .map_or_else(|| "-".to_owned(), table::age),
    );
    row.push(table::size(image.size));
    row.push(image.platforms.join(","));
    row
}

/// Docker's short form of a normalised name.
pub fn familiar(name: &str) -> String {
    let rest = name.strip_prefix("docker.io/").unwrap_or(name);
    rest.strip_prefix("library/").unwrap_or(rest).to_owned()
}

fn is_named(image: &ImageSummary, name: &str) -> bool {
    let familiar = familiar(&image.name);
    let repository = familiar
        .rsplit_once(':')
        .map_or(familiar.as_str(), |(repository, _)| repository);
    image.name == name || familiar == name || repository == name
}

/// The first 12 hex digits, as Docker shows IDs.
fn shown_id(id: &str, whole: bool) -> String {
    if whole {
        return id.to_owned();
    }
    id.split_once(':')
        .map_or(id, |(_, hex)| hex)
        .chars()
        .take(12)
        .collect()
}
