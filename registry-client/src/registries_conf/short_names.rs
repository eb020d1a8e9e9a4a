//! What a name without a registry may stand for: an alias, the search registries, or Docker's registry.
//!
//! As Podman does it where nobody can be asked, except that Docker's registry is taken where nothing is configured.

use super::{RegistriesConf, ShortNameMode};
use crate::reference::split_registry;
use crate::{Error, Reference};

impl RegistriesConf {
    /// What to pull for a name as somebody typed it: the first of these that can be had. Never empty.
    ///
    /// # Errors
    /// A bad name; an ambiguous one in the mode `enforcing`.
    pub fn candidates(&self, text: &str) -> Result<Vec<Reference>, Error> {
        let plain = Reference::parse(text)?;
        if split_registry(text).0.is_some() {
            return Ok(vec![plain]);
        }
        let name = name_of(text);
        let suffix = &text[name.len()..];
        if let Some(target) = self.aliases.get(name) {
            return Ok(vec![Reference::parse(&format!("{target}{suffix}"))?]);
        }
        match self.search.as_slice() {
            [] => Ok(vec![plain]),
            several if several.len() > 1 && self.short_name_mode == ShortNameMode::Enforcing => {
                Err(Error::ShortName {
                    name: text.to_owned(),
                    registries: several.to_vec(),
                })
            }
            registries => registries
                .iter()
                .map(|registry| Reference::parse(&format!("{registry}/{text}")))
                .collect(),
        }
    }
}

/// The name without tag and digest. The text is a valid reference without a registry, so no port is in it.
fn name_of(text: &str) -> &str {
    text.split([':', '@']).next().unwrap_or(text)
}
