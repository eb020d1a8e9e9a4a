//! `--executor`, `--executor-fallback`, `--remote-cache`: from flags, the environment and `remote.toml`.
//!
//! All three say the same thing in the same words: a place and `key=value` fields behind it. What a later field says
//! of a key that has one value counts, so that a flag can change one thing of a pool.

use super::remote_file::RemoteFile;
use super::{csv, usage};
use crate::args::{ExecutorFallback, RemoteArgs};
use crate::environment::Environment;
use crate::error::Failure;
use executor::request::{
    EndpointSettings, ExecutorSettings, Fallback, Preset, RemoteSettings, SharedCachePlace,
    SharedCacheSettings,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Other machines of a build.
pub fn settings(args: &RemoteArgs, environment: &Environment) -> Result<RemoteSettings, Failure> {
    let file = RemoteFile::read(environment)?;
    let typed = args.executor.as_deref();
    let set = environment.get("KILN_EXECUTOR");
    let said = typed
        .map(|text| ("--executor", text))
        .or(set.map(|text| ("KILN_EXECUTOR", text)))
        .or(file
            .executor()
            .map(|text| ("executor of remote.toml", text)));
    let mut executor = match said {
        None | Some((_, "" | "none")) => None,
        Some((flag, text)) => Some(Entry::new(flag, text, &file)?.executor(environment)?),
    };
    if let Some(executor) = &mut executor {
        executor.fallback = fallback(args, environment, &file)?;
    }
    let caches = caches(args, environment, &file)?;
    Ok(RemoteSettings { executor, caches })
}

fn fallback(
    args: &RemoteArgs,
    environment: &Environment,
    file: &RemoteFile,
) -> Result<Fallback, Failure> {
    match args.executor_fallback {
        Some(ExecutorFallback::Local) => return Ok(Fallback::Local),
        Some(ExecutorFallback::Fail) => return Ok(Fallback::Fail),
        None => {}
    }
    let set = environment.get("KILN_EXECUTOR_FALLBACK");
    match set.or(file.fallback()) {
        None | Some("fail") => Ok(Fallback::Fail),
        Some("local") => Ok(Fallback::Local),
        Some(other) => Err(usage(format!(
            "invalid executor fallback {other:?}: expected local or fail"
        ))),
    }
}

fn caches(
    args: &RemoteArgs,
    environment: &Environment,
    file: &RemoteFile,
) -> Result<Vec<SharedCacheSettings>, Failure> {
    let set = environment.get("KILN_REMOTE_CACHE");
    let said: Vec<(&str, &str)> = if !args.caches.is_empty() {
        let typed = args.caches.iter();
        typed
            .map(|text| ("--remote-cache", text.as_str()))
            .collect()
    } else if let Some(set) = set {
        // Fields hold no blanks: several caches are told apart by them.
        let each = set.split_whitespace();
        each.map(|text| ("KILN_REMOTE_CACHE", text)).collect()
    } else {
        let each = file.caches();
        each.map(|text| ("remote-cache of remote.toml", text))
            .collect()
    };
    let mut caches = Vec::new();
    for (flag, text) in said {
        if matches!(text, "" | "none") {
            caches.clear();
            continue;
        }
        let cache = Entry::new(flag, text, file)?.cache(environment)?;
        if !caches.contains(&cache) {
            caches.push(cache);
        }
    }
    Ok(caches)
}

/// A place and what is said of it.
struct Entry {
    /// Who says it.
    flag: String,
    text: String,
    place: String,
    fields: Vec<(String, String)>,
    /// How many of them are the pool's.
    of_pool: usize,
}

/// What a pool says that is nothing to a cache.
const EXECUTOR_ONLY: [&str; 8] = [
    "preset",
    "property",
    "jobs",
    "queue-timeout",
    "timeout",
    "network",
    "allow",
    "binary",
];

impl Entry {
    fn new(flag: &str, text: &str, file: &RemoteFile) -> Result<Self, Failure> {
        let mut entry = Self {
            flag: flag.to_owned(),
            text: text.to_owned(),
            place: String::new(),
            fields: Vec::new(),
            of_pool: 0,
        };
        let fields = csv::fields(text).map_err(|reason| entry.invalid(&reason))?;
        for (at, field) in fields.into_iter().enumerate() {
            match field.split_once('=') {
                _ if at == 0 => entry.place = field,
                Some((key, value)) => {
                    entry
                        .fields
                        .push((key.trim().to_lowercase(), value.to_owned()));
                }
                None => return Err(entry.invalid(&format!("field {field:?} is not KEY=VALUE"))),
            }
        }
        if entry.place.contains("://") {
            return Ok(entry);
        }
        let Some((place, mut fields)) = file.pool(&entry.place) else {
            let known = file.pool_names();
            let known = if known.is_empty() {
                String::new()
            } else {
                format!(", or a pool of remote.toml ({})", known.join(", "))
            };
            return Err(entry.invalid(&format!(
                "expected grpc://HOST[:PORT][/INSTANCE] or grpcs://...{known}"
            )));
        };
        entry.of_pool = fields.len();
        fields.append(&mut entry.fields);
        entry.place = place;
        entry.fields = fields;
        Ok(entry)
    }

    /// A pool serves as a cache too: its keys for the other use are no mistake.
    fn drop_of_pool(&mut self, keys: &[&str]) {
        let mut at = 0;
        let of_pool = self.of_pool;
        self.fields.retain(|(key, _)| {
            at += 1;
            at > of_pool || !keys.contains(&key.as_str())
        });
    }

    /// The mistake, without the values of headers.
    fn invalid(&self, reason: &str) -> Failure {
        let place = self.text.split(',').next().unwrap_or_default();
        usage(format!(
            "invalid value {place:?} for '{}': {reason}",
            self.flag
        ))
    }

    fn executor(mut self, environment: &Environment) -> Result<ExecutorSettings, Failure> {
        self.drop_of_pool(&["mode", "branch", "ignore-error"]);
        let mut executor = ExecutorSettings::new(self.endpoint()?);
        for (key, value) in &self.fields {
            match key.as_str() {
                "preset" => executor.preset = self.preset(value)?,
                "property" => executor.properties.push(self.pair(key, value)?),
                "jobs" => {
                    executor.jobs = value
                        .parse()
                        .ok()
                        .filter(|jobs| (1..=10_000).contains(jobs))
                        .ok_or_else(|| {
                            self.invalid_field(key, value, "a number from 1 to 10000")
                        })?;
                }
                "queue-timeout" => executor.queue_timeout = self.duration(key, value)?,
                "timeout" => executor.timeout = self.duration(key, value)?,
                "network" => executor.network = self.switch(key, value)?,
                "allow" => match value.as_str() {
                    "secret" => executor.allow.secret = true,
                    "ssh" => executor.allow.ssh = true,
                    "host-network" => executor.allow.host_network = true,
                    "proxy" => executor.allow.proxy = true,
                    _ => {
                        let known = "host-network, proxy, secret or ssh";
                        return Err(self.invalid_field(key, value, known));
                    }
                },
                "binary" => {
                    let (architecture, path) = self.pair(key, value)?;
                    let path = PathBuf::from(path);
                    let found = std::fs::metadata(&path);
                    if !found.is_ok_and(|found| found.is_file()) {
                        return Err(self.invalid_field(key, value, "a file behind ARCH="));
                    }
                    executor.binaries.insert(architecture, path);
                }
                "salt" => executor.salt.clone_from(value),
                _ => self.common(key, value, &mut executor.endpoint, environment)?,
            }
        }
        self.check_identity(&executor.endpoint)?;
        Ok(executor)
    }

    fn cache(mut self, environment: &Environment) -> Result<SharedCacheSettings, Failure> {
        self.drop_of_pool(&EXECUTOR_ONLY);
        let mut cache = SharedCacheSettings {
            place: match self.place.strip_prefix("registry://") {
                Some(repository) => SharedCachePlace::Registry {
                    repository: self.repository(repository)?,
                    branch: None,
                },
                None => SharedCachePlace::Reapi(self.endpoint()?),
            },
            writes: true,
            ignore_error: true,
            salt: String::new(),
        };
        for (key, value) in &self.fields {
            match (key.as_str(), &mut cache.place) {
                ("mode", _) => {
                    cache.writes = match value.as_str() {
                        "ro" => false,
                        "rw" => true,
                        _ => return Err(self.invalid_field(key, value, "ro or rw")),
                    };
                }
                ("ignore-error", _) => cache.ignore_error = self.switch(key, value)?,
                ("salt", _) => cache.salt.clone_from(value),
                ("branch", SharedCachePlace::Registry { branch, .. }) => {
                    *branch = Some(value.clone()).filter(|value| !value.is_empty());
                }
                (_, SharedCachePlace::Reapi(endpoint)) => {
                    self.common(key, value, endpoint, environment)?;
                }
                _ => return Err(self.unknown(key)),
            }
        }
        if let SharedCachePlace::Reapi(endpoint) = &cache.place {
            self.check_identity(endpoint)?;
        }
        Ok(cache)
    }

    /// Where the server is.
    fn endpoint(&self) -> Result<EndpointSettings, Failure> {
        let rest = self
            .place
            .strip_prefix("grpc://")
            .or_else(|| self.place.strip_prefix("grpcs://"));
        let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
        match host {
            Some(host) if is_host(host) => Ok(EndpointSettings {
                url: self.place.clone(),
                ..EndpointSettings::default()
            }),
            _ => Err(self.invalid("expected grpc://HOST[:PORT][/INSTANCE] or grpcs://...")),
        }
    }

    fn repository(&self, text: &str) -> Result<String, Failure> {
        let named = executor::request::reference(text)
            .map_err(|error| self.invalid(&crate::render::chain(&error)))?;
        let last = text.rsplit('/').next().unwrap_or_default();
        if last.contains([':', '@']) {
            return Err(self.invalid("a repository has no tag and no digest here"));
        }
        Ok(named
            .rsplit_once(':')
            .map_or(named.clone(), |(repository, _)| repository.to_owned()))
    }

    /// What is said of servers, whatever they are for.
    fn common(
        &self,
        key: &str,
        value: &str,
        endpoint: &mut EndpointSettings,
        environment: &Environment,
    ) -> Result<(), Failure> {
        match key {
            "header" => endpoint.headers.push(self.pair(key, value)?),
            "header-env" => {
                let (name, variable) = self.pair(key, value)?;
                let Some(value) = environment.get(&variable) else {
                    return Err(
                        self.invalid(&format!("header-env: the variable {variable} is not set"))
                    );
                };
                endpoint.headers.push((name, value.to_owned()));
            }
            "ca" => endpoint.ca = Some(self.read(key, Path::new(value))?),
            "cert" => {
                endpoint.identity.get_or_insert_default().0 = self.read(key, Path::new(value))?;
            }
            "key" => {
                endpoint.identity.get_or_insert_default().1 = self.read(key, Path::new(value))?;
            }
            _ => return Err(self.unknown(key)),
        }
        Ok(())
    }

    fn check_identity(&self, endpoint: &EndpointSettings) -> Result<(), Failure> {
        match &endpoint.identity {
            Some((cert, key)) if cert.is_empty() || key.is_empty() => {
                Err(self.invalid("cert and key belong together"))
            }
            Some(_) if self.place.starts_with("grpc://") => {
                Err(self.invalid("cert and key need grpcs://"))
            }
            _ => Ok(()),
        }
    }

    fn read(&self, key: &str, path: &Path) -> Result<Vec<u8>, Failure> {
        match std::fs::read(path) {
            Ok(bytes) if bytes.is_empty() => {
                Err(self.invalid(&format!("{key}: {} is empty", path.display())))
            }
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(self.invalid(&format!("{key}: read {}: {error}", path.display()))),
        }
    }

    fn unknown(&self, key: &str) -> Failure {
        self.invalid(&format!("unknown key {key:?}"))
    }

    fn invalid_field(&self, key: &str, value: &str, expected: &str) -> Failure {
        self.invalid(&format!("{key} {value:?}: expected {expected}"))
    }

    fn pair(&self, key: &str, value: &str) -> Result<(String, String), Failure> {
        match value.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            // What was typed may be a secret.
            _ => Err(self.invalid(&format!("{key}: expected NAME=VALUE"))),
        }
    }

    fn preset(&self, value: &str) -> Result<Preset, Failure> {
        Ok(match value {
            "standard" => Preset::Standard,
            "buildbox" => Preset::Buildbox,
            "buildbarn" => Preset::Buildbarn,
            "nativelink" => Preset::Nativelink,
            "buildbuddy" => Preset::Buildbuddy,
            "buildgrid" => Preset::Buildgrid,
            _ => {
                let known = "standard, buildbox, buildbarn, nativelink, buildbuddy or buildgrid";
                return Err(self.invalid_field("preset", value, known));
            }
        })
    }

    fn duration(&self, key: &str, value: &str) -> Result<Duration, Failure> {
        let nanoseconds = parser::value::duration(value)
            .map_err(|reason| self.invalid(&format!("{key} {value:?}: {reason}")))?;
        match u64::try_from(nanoseconds) {
            Ok(0) | Err(_) => Err(self.invalid_field(key, value, "longer than nothing")),
            Ok(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
        }
    }

    fn switch(&self, key: &str, value: &str) -> Result<bool, Failure> {
        match value {
            "on" | "true" | "1" => Ok(true),
            "off" | "false" | "0" => Ok(false),
            _ => Err(self.invalid_field(key, value, "on or off")),
        }
    }
}

/// `HOST[:PORT]`, or `[V6][:PORT]`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    is_port && !host.is_empty() && !host.contains(['@', '?', '#', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOLS: &str = r#"
        [pool.ci]
        url = "grpc://cluster.example/main"
        preset = "buildbuddy"
        property = { Pool = "large", cpu = 4 }
        allow = ["proxy", "host-network"]
        mode = "ro"
    "#;

    fn entry(text: &str) -> Result<Entry, Failure> {
        let Ok(file) = RemoteFile::parse(POOLS) else {
            panic!("the file is refused");
        };
        Entry::new("--executor", text, &file)
    }

    fn executor(text: &str) -> ExecutorSettings {
        let found = entry(text).and_then(|entry| entry.executor(&Environment::default()));
        found.unwrap_or_else(|failure| panic!("{text}: {failure:?}"))
    }

    fn cache(text: &str) -> SharedCacheSettings {
        let found = entry(text).and_then(|entry| entry.cache(&Environment::default()));
        found.unwrap_or_else(|failure| panic!("{text}: {failure:?}"))
    }

    fn told(result: Result<(), Failure>) -> String {
        match result {
            Err(Failure::Usage(message)) => message,
            Err(other) => panic!("{other:?}"),
            Ok(()) => panic!("it is taken"),
        }
    }

    #[test]
    fn a_url_and_its_fields() {
        let found = executor(
            "grpc://[::1]:8980/a/b,preset=buildbarn,property=Pool=x,property=ISA=,jobs=3,queue-timeout=90s,timeout=2h,network=off,allow=proxy,salt=team,header=x-key=k=v",
        );
        assert_eq!(found.endpoint.url, "grpc://[::1]:8980/a/b");
        assert_eq!(found.preset, Preset::Buildbarn);
        let properties = [("Pool", "x"), ("ISA", "")];
        let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found.properties, properties);
        assert_eq!((found.jobs, found.network), (3, false));
        assert_eq!(found.queue_timeout, Duration::from_secs(90));
        assert_eq!(found.timeout, Duration::from_secs(7200));
        assert!(found.allow.proxy && !found.allow.host_network);
        assert!(!found.allow.secret && !found.allow.ssh);
        assert_eq!(found.salt, "team");
        assert_eq!(found.endpoint.headers[0].1, "k=v");
        assert!(!format!("{found:?}").contains("k=v"));
        let found = executor("grpc://host,allow=secret");
        assert!(found.allow.secret && !found.allow.ssh);
        let found = executor("grpc://host,allow=ssh");
        assert!(found.allow.ssh && !found.allow.secret);
    }

    #[test]
    fn a_cache_may_be_needed() {
        assert!(cache("grpc://host").ignore_error);
        for text in ["grpc://host", "registry://host/steps"] {
            assert!(!cache(&format!("{text},ignore-error=false")).ignore_error);
            assert!(cache(&format!("{text},ignore-error=true")).ignore_error);
        }
        let maybe = entry("grpc://host,ignore-error=maybe");
        let maybe = maybe.and_then(|entry| entry.cache(&Environment::default()));
        assert!(told(maybe.map(drop)).contains("ignore-error"));
    }

    #[test]
    fn pools_are_named_and_changed() {
        let found = executor("ci,jobs=2,preset=buildgrid");
        assert_eq!(found.endpoint.url, "grpc://cluster.example/main");
        assert_eq!((found.preset, found.jobs), (Preset::Buildgrid, 2));
        assert_eq!(found.properties.len(), 2);
        assert!(found.allow.proxy && found.allow.host_network);
        let found = cache("ci");
        assert!(!found.writes);
        assert!(cache("ci,mode=rw").writes);
    }

    #[test]
    fn caches_are_servers_and_registries() {
        let found = cache("registry://example.org/team/steps,branch=main,mode=ro");
        let SharedCachePlace::Registry { repository, branch } = found.place else {
            panic!("no registry");
        };
        assert_eq!(repository, "example.org/team/steps");
        assert_eq!(branch.as_deref(), Some("main"));
        let found = cache("registry://127.0.0.1:5000/steps");
        assert!(
            matches!(found.place, SharedCachePlace::Registry { repository, .. } if repository == "127.0.0.1:5000/steps")
        );
        assert!(matches!(
            cache("grpcs://h:1").place,
            SharedCachePlace::Reapi(_)
        ));
    }

    #[test]
    fn mistakes_name_the_field() {
        for (text, says) in [
            ("http://host", "expected grpc://"),
            ("nowhere", "a pool of remote.toml (ci)"),
            ("grpc://", "expected grpc://"),
            ("grpc://host:0", "expected grpc://"),
            ("grpc://host:x", "expected grpc://"),
            ("grpc://user@host", "expected grpc://"),
            ("grpc://host,jobs", "\"jobs\" is not KEY=VALUE"),
            ("grpc://host,jobs=0", "jobs \"0\": expected a number"),
            ("grpc://host,preset=x", "preset \"x\": expected standard"),
            ("grpc://host,queue-timeout=soon", "queue-timeout \"soon\""),
            ("grpc://host,timeout=0s", "timeout \"0s\": expected longer"),
            ("grpc://host,network=x", "network \"x\": expected on or off"),
            (
                "grpc://host,allow=all",
                "allow \"all\": expected host-network",
            ),
            ("grpc://host,binary=arm64", "binary: expected NAME=VALUE"),
            ("grpc://host,binary=arm64=/no/such", "binary"),
            ("grpc://host,header=x", "header: expected NAME=VALUE"),
            ("grpc://host,header-env=a=NONE", "NONE is not set"),
            ("grpc://host,ca=/no/such", "ca: read /no/such"),
            ("grpcs://host,cert=/dev/null", "cert: /dev/null is empty"),
            ("grpc://host,nope=1", "unknown key \"nope\""),
            ("grpc://host,\"x", "a quote is not closed"),
        ] {
            let found = entry(text).and_then(|entry| entry.executor(&Environment::default()));
            let found = told(found.map(drop));
            assert!(found.contains(says), "{text}: {found}");
            assert!(found.contains("'--executor'"), "{found}");
        }
        for (text, says) in [
            ("registry://a/b:tag", "no tag"),
            ("registry://UPPER/b c", "invalid"),
            ("registry://a/b,ca=/x", "unknown key \"ca\""),
            ("grpc://host,mode=w", "mode \"w\": expected ro or rw"),
            ("grpc://host,branch=x", "unknown key \"branch\""),
            ("grpc://host,jobs=3", "unknown key \"jobs\""),
        ] {
            let found = entry(text).and_then(|entry| entry.cache(&Environment::default()));
            let found = told(found.map(drop));
            assert!(found.contains(says), "{text}: {found}");
        }
    }
}
