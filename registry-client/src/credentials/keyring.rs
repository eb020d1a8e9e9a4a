//! Looks for the credentials of a repository through all places, each read when it is first needed.

use super::file::{AuthFile, Place};
use super::helper::{HelperSettings, Kept};
use super::key::canonical_host;
use super::{Credential, CredentialSource, Login};
use crate::{ClientOptions, Error};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What was found for a repository, and where.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Found {
    pub(crate) credential: Credential,
    /// For messages: `/root/.docker/config.json`.
    pub(crate) origin: String,
    /// Kept from an earlier login, not given for this run.
    pub(crate) stored: bool,
}

impl Found {
    /// For messages.
    pub(crate) fn with(&self) -> String {
        format!("with the credentials from {}", self.origin)
    }
}

type Answers = HashMap<(String, String), Option<Arc<Found>>>;

/// The places of a client, and what they said.
pub(crate) struct Keyring {
    answers: Mutex<Answers>,
    places: Arc<Mutex<Places>>,
    empty: bool,
}

impl Keyring {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        Self {
            empty: options.credentials.is_empty(),
            answers: Mutex::default(),
            places: Arc::new(Mutex::new(Places {
                sources: options.credentials.clone(),
                loaded: None,
                helped: HashMap::new(),
                settings: HelperSettings {
                    prepare: options.prepare_program,
                    timeout: options.timeouts.helper,
                },
            })),
        }
    }

    /// The credentials for a repository of a host. An error is not remembered.
    pub(crate) async fn find(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<Arc<Found>>, Error> {
        if self.empty {
            return Ok(None);
        }
        let question = (host.to_owned(), repository.to_owned());
        {
            let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = answers.get(&question) {
                return Ok(answer.clone());
            }
        }
        let places = Arc::clone(&self.places);
        let (host, repository) = question.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
            places.find(&host, &repository)
        });
        let found = looking
            .await
            .expect("BUG: looking for credentials panicked")?;
        let found = found.map(Arc::new);
        if let Some(found) = &found {
            tracing::debug!(
                host = question.0,
                repository = question.1,
                origin = found.origin,
                "credentials found"
            );
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(question, found.clone());
        Ok(found)
    }
}

struct Places {
    sources: Vec<CredentialSource>,
    loaded: Option<Vec<Loaded>>,
    /// By helper and server.
    helped: HashMap<(String, String), Option<Kept>>,
    settings: HelperSettings,
}

enum Loaded {
    Login {
        name: String,
        registry: Option<String>,
        login: Login,
    },
    File(AuthFile),
}

impl Places {
    fn find(&mut self, host: &str, repository: &str) -> Result<Option<Found>, Error> {
        if self.loaded.is_none() {
            self.loaded = Some(load(&self.sources)?);
        }
        let loaded = self.loaded.as_deref().unwrap_or_default();
        for place in loaded {
            let found = match place {
                Loaded::Login {
                    name,
                    registry,
                    login,
                } => {
                    let fits = |registry: &String| {
                        let bare = registry
                            .split_once("://")
                            .map_or(registry.as_str(), |(_, rest)| rest);
                        canonical_host(bare.trim_end_matches('/')) == canonical_host(host)
                    };
                    registry.as_ref().is_none_or(fits).then(|| Found {
                        credential: login.clone().into(),
                        origin: name.clone(),
                        stored: false,
                    })
                }
                Loaded::File(file) => {
                    in_file(file, host, repository, &mut self.helped, self.settings)?
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

fn load(sources: &[CredentialSource]) -> Result<Vec<Loaded>, Error> {
    let mut loaded = Vec::new();
    for source in sources {
        match source {
            CredentialSource::Login {
                name,
                registry,
                login,
            } => loaded.push(Loaded::Login {
                name: name.clone(),
                registry: registry.clone(),
                login: login.clone(),
            }),
            CredentialSource::Json { name, text } => {
                let file = AuthFile::parse(name.clone(), text.expose().as_bytes(), true)?;
                loaded.push(Loaded::File(file));
            }
            CredentialSource::File { path, required } => match AuthFile::read(path)? {
                Some(file) => loaded.push(Loaded::File(file)),
                None if *required => {
                    return Err(Error::CredentialsRead {
                        path: path.clone(),
                        source: std::io::ErrorKind::NotFound.into(),
                    });
                }
                None => {}
            },
        }
    }
    Ok(loaded)
}

fn in_file(
    file: &AuthFile,
    host: &str,
    repository: &str,
    helped: &mut HashMap<(String, String), Option<Kept>>,
    settings: HelperSettings,
) -> Result<Option<Found>, Error> {
    for place in file.places(host, repository)? {
        match place {
            Place::Entry { key, entry } => {
                if let Some(credential) = file.credential(key, entry)? {
                    return Ok(Some(Found {
                        credential,
                        origin: format!("{} ({key})", file.name),
                        stored: true,
                    }));
                }
            }
            Place::Helper { name, server } => {
                let question = (name.to_owned(), server.clone());
                let kept = match helped.get(&question) {
                    Some(kept) => kept.clone(),
                    None => {
                        let kept = file.runner(name, settings).get(&server)?;
                        helped.insert(question, kept.clone());
                        kept
                    }
                };
                let Some(kept) = kept else { continue };
                return Ok(Some(Found {
                    credential: kept.into_credential(),
                    origin: format!("docker-credential-{name}, which {} names", file.name),
                    stored: true,
                }));
            }
        }
    }
    Ok(None)
}
