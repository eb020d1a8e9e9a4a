//! The environment, read once. No other module of the workspace looks at it.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Proxy variables that builds know without a declaration (upper case; both cases are read).
pub const PROXY_NAMES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// What Kiln takes from the environment. Values may be secret, so it has no `Debug` form.
#[derive(Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Whether stderr is a terminal that can be redrawn.
    pub terminal: bool,
    /// Whether stderr output may be coloured (`NO_COLOR`, `CLICOLOR_FORCE`, `TERM=dumb`).
    pub colour: bool,
    /// Columns of the terminal; 80 when unknown.
    pub columns: usize,
    /// Rows of the terminal; 24 when unknown.
    pub rows: usize,
    /// `KILN_LOG`: a `tracing` filter.
    pub log_filter: Option<String>,
    /// `-D` was given: warnings are told in full.
    pub debug: bool,
}

impl Environment {
    /// Reads it. Variables that are not UTF-8 are left out.
    pub fn read() -> Self {
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let dumb = variables.get("TERM").is_some_and(|term| term == "dumb");
        let is_terminal = std::io::stderr().is_terminal();
        let no_colour = variables.get("NO_COLOR").is_some_and(|v| !v.is_empty());
        let forced = variables
            .get("CLICOLOR_FORCE")
            .is_some_and(|v| !v.is_empty() && v != "0");
        let (columns, rows) = terminal_size();
        Self {
            terminal: is_terminal && !dumb,
            colour: !no_colour && (forced || (is_terminal && !dumb)),
            columns,
            rows,
            log_filter: variables.get("KILN_LOG").cloned(),
            debug: false,
            variables,
        }
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A variable as set, empty values included (`--build-arg NAME`).
    pub fn get_raw(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Proxy settings in either case.
    pub fn proxies(&self) -> BTreeMap<String, String> {
        PROXY_NAMES
            .iter()
            .flat_map(|name| [(*name).to_owned(), name.to_lowercase()])
            .filter_map(|name| Some((name.clone(), self.get(&name)?.to_owned())))
            .collect()
    }

    /// Proxy settings that the docker client's configuration (`$DOCKER_CONFIG/config.json`, `proxies.default`) hands to
    /// builds as build args, in both cases. A file that cannot be read says nothing.
    pub fn client_proxies(&self) -> Vec<(String, String)> {
        let config = self
            .docker_config()
            .and_then(|folder| std::fs::read(folder.join("config.json")).ok())
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
            .unwrap_or_default();
        let settings = [
            ("httpProxy", "HTTP_PROXY"),
            ("httpsProxy", "HTTPS_PROXY"),
            ("noProxy", "NO_PROXY"),
            ("ftpProxy", "FTP_PROXY"),
            ("allProxy", "ALL_PROXY"),
        ];
        settings
            .iter()
            .filter_map(|(key, name)| {
                let value = config["proxies"]["default"][key].as_str()?;
                Some((name, value)).filter(|(_, value)| !value.is_empty())
            })
            .flat_map(|(name, value)| {
                [
                    ((*name).to_owned(), value.to_owned()),
                    (name.to_lowercase(), value.to_owned()),
                ]
            })
            .collect()
    }

    /// Folder of the store: `--root`, `KILN_ROOT`, `/var/lib/kiln` as root, else the user's data folder.
    pub fn store_root(&self, flag: Option<PathBuf>) -> PathBuf {
        if let Some(root) = flag {
            return root;
        }
        if let Some(root) = self.get("KILN_ROOT") {
            return PathBuf::from(root);
        }
        if let Some(data) = self.get("XDG_DATA_HOME") {
            return PathBuf::from(data).join("kiln");
        }
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/kiln");
        }
        match self.get("HOME") {
            Some(home) => PathBuf::from(home).join(".local/share/kiln"),
            None => PathBuf::from("/var/tmp")
                .join(format!("kiln-{}", rustix::process::geteuid().as_raw())),
        }
    }

    /// Folder of the docker client's configuration.
    pub fn docker_config(&self) -> Option<PathBuf> {
        let home = || Some(PathBuf::from(self.get("HOME")?).join(".docker"));
        self.get("DOCKER_CONFIG").map(PathBuf::from).or_else(home)
    }

    /// Folder of the user's configuration files.
    pub fn config_home(&self) -> Option<PathBuf> {
        let home = || Some(PathBuf::from(self.get("HOME")?).join(".config"));
        self.get("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)
    }

    /// containers registries.conf: the variable, else the user's, else the system's file.
    pub fn registries_conf(&self) -> Option<PathBuf> {
        if let Some(path) = self.get("CONTAINERS_REGISTRIES_CONF") {
            return Some(PathBuf::from(path));
        }
        let user = self
            .config_home()
            .map(|dir| dir.join("containers/registries.conf"));
        user.into_iter()
            .chain([PathBuf::from("/etc/containers/registries.conf")])
            .find(|path| path.is_file())
    }

    /// Folders of drop-ins for it: the system's, then the user's.
    pub fn registries_conf_dirs(&self) -> Vec<PathBuf> {
        let user = self
            .config_home()
            .map(|dir| dir.join("containers/registries.conf.d"));
        let system = PathBuf::from("/etc/containers/registries.conf.d");
        std::iter::once(system).chain(user).collect()
    }

    /// Where Podman records short names.
    pub fn short_name_aliases(&self) -> Option<PathBuf> {
        let cache = if rustix::process::geteuid().is_root() {
            Some(PathBuf::from("/var/cache"))
        } else {
            let home = || Some(PathBuf::from(self.get("HOME")?).join(".cache"));
            self.get("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)
        };
        cache.map(|cache| cache.join("containers/short-name-aliases.conf"))
    }

    /// containers policy.json: the user's, else the system's file.
    pub fn policy(&self) -> Option<PathBuf> {
        let user = self
            .config_home()
            .map(|dir| dir.join("containers/policy.json"));
        user.into_iter()
            .chain([PathBuf::from("/etc/containers/policy.json")])
            .find(|path| path.is_file())
    }
}

fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}
