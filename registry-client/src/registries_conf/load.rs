//! Which files make up the configuration, and how a later one changes an earlier one (containers-registries.conf.d(5)).

use super::{RegistriesConf, file};
use crate::{ClientOptions, Error};
use std::path::{Path, PathBuf};

/// Reads the main file, then the `*.conf` files of each folder by name, then recorded aliases.
pub(super) fn load(options: &ClientOptions) -> Result<RegistriesConf, Error> {
    let mut conf = match &options.registries_conf {
        Some(path) => RegistriesConf::load(path)?,
        None => RegistriesConf::default(),
    };
    for folder in &options.registries_conf_dirs {
        for path in drop_ins(folder)? {
            conf.change_by(parse(&path)?);
        }
    }
    if let Some(path) = options
        .short_name_aliases
        .as_ref()
        .filter(|path| path.is_file())
    {
        conf.aliases.extend(parse(path)?.conf.aliases);
    }
    // An alias for nothing takes an earlier one back.
    conf.aliases.retain(|_, target| !target.is_empty());
    Ok(conf)
}

fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
            && path.is_file()
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::ConfigRead {
        path: path.to_owned(),
        source,
    }
}

/// Reads one file.
pub(super) fn parse(path: &Path) -> Result<file::Parsed, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| unreadable(path, source))?;
    file::parse(&text).map_err(|problem| problem.at(path))
}

impl RegistriesConf {
    /// A registry of the same prefix is replaced whole, aliases one by one, the rest where the later file has it.
    fn change_by(&mut self, later: file::Parsed) {
        let file::Parsed {
            conf,
            has_search,
            has_mode,
        } = later;
        for rule in &conf.registries {
            self.registries.retain(|known| known.prefix != rule.prefix);
        }
        self.registries.extend(conf.registries);
        self.aliases.extend(conf.aliases);
        if has_search {
            self.search = conf.search;
        }
        if has_mode {
            self.short_name_mode = conf.short_name_mode;
        }
    }
}
