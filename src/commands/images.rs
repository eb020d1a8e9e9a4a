//! `kiln images`.

use super::{print, print_line, short_id};
use crate::args::ImagesArgs;
use crate::error::Failure;
use crate::table::{self, Table};
use crate::template::{Columns, List};
use executor::output::{ImageFilters, ImageSummary, LIST_FILTERS, split_tag};
use executor::space::Space;
use serde_json::{Value, json};
use std::time::SystemTime;

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("Platforms", "PLATFORMS"),
    ("Name", "NAME"),
];

/// Lists the store's images.
pub fn run(args: &ImagesArgs, space: &Space) -> Result<(), Failure> {
    let now = SystemTime::now();
    let mut filters = ImageFilters::parse(&args.filters, LIST_FILTERS, now)
        .map_err(|error| Failure::Other(error.to_string()))?;
    if let Some(name) = &args.name {
        filters.reference(name)?;
    }
    let has_format = args.format.is_some();
    let mut images = executor::output::images(space)?;
    filters.apply(space, &mut images)?;
    if args.tree {
        print(&tree(&images, args.no_trunc));
        return Ok(());
    }
    if args.quiet && !has_format {
        for image in &images {
            print_line(&short_id(shown_id(image), args.no_trunc));
        }
        return Ok(());
    }
    let several = images.iter().any(|image| image.platforms.len() > 1);
    let mut columns = "{{.Repository}}\t{{.Tag}}".to_owned();
    if args.digests {
        columns.push_str("\t{{.Digest}}");
    }
    columns
        .push_str("\t{{.ID}}\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}");
    if several {
        columns.push_str("\t{{.Platforms}}");
    }
    let format = args.format.as_deref();
    let list = List::new(
        format,
        Columns {
            type_name: "*formatter.imageContext",
            default: &columns,
            headings: HEADINGS,
        },
    )?;
    let rows: Vec<Value> = images
        .iter()
        .map(|image| row(image, args.no_trunc))
        .collect();
    print(&list.render(&rows)?);
    Ok(())
}

/// The config's digest; of an image of which the store has no platform's, its own.
pub fn shown_id(image: &ImageSummary) -> &str {
    if image.id.is_empty() {
        &image.digest
    } else {
        &image.id
    }
}

/// Repository and tag as Docker shows them.
pub fn names(image: &ImageSummary) -> (&str, &str) {
    if image.name.is_empty() {
        return ("<none>", "<none>");
    }
    match split_tag(familiar(&image.name)) {
        (repository, "") => (repository, "<none>"),
        both => both,
    }
}

/// With Docker's names of the fields.
fn row(image: &ImageSummary, whole: bool) -> Value {
    let (repository, tag) = names(image);
    let created = image.created.as_deref();
    let size = table::size(image.size);
    json!({
        "Repository": repository,
        "Tag": tag,
        "ID": short_id(shown_id(image), whole),
        "Digest": image.repo_digest.as_deref().unwrap_or("<none>"),
        "CreatedSince": created.map(table::age).unwrap_or_default(),
        "CreatedAt": created.map(table::moment).unwrap_or_default(),
        "Size": size,
        "VirtualSize": size,
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "Containers": "N/A",
        "Platforms": image.platforms.join(","),
        "Name": image.name,
    })
}

/// Docker's short form of a normalised name.
pub fn familiar(name: &str) -> &str {
    let Some(rest) = name.strip_prefix("docker.io/") else {
        return name;
    };
    match rest.strip_prefix("library/") {
        Some(official) if !official.contains('/') => official,
        _ => rest,
    }
}

fn tree(images: &[ImageSummary], whole: bool) -> String {
    let mut table = Table::new(&["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE"]);
    for image in images {
        let name = match names(image) {
            ("<none>", _) => "<untagged>".to_owned(),
            (repository, tag) => format!("{repository}:{tag}"),
        };
        let sum = |of: fn(&executor::output::MemberSummary) -> u64| -> u64 {
            image.members.iter().map(of).sum()
        };
        table.row(vec![
            name,
            short_id(&image.digest, whole),
            table::size(sum(|member| member.size)),
            table::size(sum(|member| member.content)),
        ]);
        for (position, member) in image.members.iter().enumerate() {
            let is_last = position + 1 == image.members.len();
            let branch = if is_last { "└─" } else { "├─" };
            table.row(vec![
                format!("{branch} {}", member.platform),
                short_id(&member.digest, whole),
                table::size(member.size),
                table::size(member.content),
            ]);
        }
    }
    table.render()
}
