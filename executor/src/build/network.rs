//! The network of commands: which one a command gets, and the `resolv.conf` and `hosts` that go with it.
//!
//! Both files are made as BuildKit makes them, from the host's; only name servers that a command could not reach are replaced
//! by one that passes questions on. How a namespace is connected is the sandbox's business.

use crate::Error;
use crate::request::{BuildRequest, NetworkSettings};
use planner::plan::{Network, RunOp};
use sandbox::{NetworkKind, NetworkOptions, NetworkProgram, PrivateNetwork, Sandbox};
use std::net::IpAddr;
use std::path::Path;

/// What stands for the address of the machine that builds.
pub(crate) const HOST_GATEWAY: &str = "host-gateway";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What systemd-resolved asks itself, when `resolv.conf` names only systemd-resolved.
const BEHIND_SYSTEMD: &str = "/run/systemd/resolve/resolv.conf";
const SYSTEMD: &str = "127.0.0.53";
/// Name servers of last resort, as Docker and BuildKit have them.
const PUBLIC: [&str; 4] = [
    "8.8.8.8",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
];
/// Variables that name a proxy.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY"];

/// How the sandbox is to make the private network of this build.
pub(crate) fn options(request: &BuildRequest) -> NetworkOptions {
    let names_host = |(_, address): &(String, String)| address == HOST_GATEWAY;
    NetworkOptions {
        search_path: request.search_path.clone(),
        program: request.run.network.program,
        host_access: request.extra_hosts.iter().any(names_host),
    }
}

/// The network of a step.
pub(crate) fn of(step: Network, build: Network) -> sandbox::Network {
    let chosen = if step == Network::Default {
        build
    } else {
        step
    };
    match chosen {
        Network::Default => sandbox::Network::Private,
        Network::None => sandbox::Network::None,
        Network::Host => sandbox::Network::Host,
    }
}

/// What a command can reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// Whatever the host reaches, as the host does.
    Host,
    /// Other machines, through a program.
    Outside(PrivateNetwork, NetworkProgram),
    /// Nothing.
    Nothing,
}

impl Reach {
    /// Waits for the private network where it is wanted.
    pub(crate) fn of(network: sandbox::Network, sandbox: &Sandbox) -> Result<Self, Error> {
        Ok(match network {
            sandbox::Network::None => Self::Nothing,
            sandbox::Network::Host => Self::Host,
            sandbox::Network::Private => {
                let private = sandbox.network()?;
                match private.kind {
                    NetworkKind::Host => Self::Host,
                    NetworkKind::Loopback => Self::Nothing,
                    NetworkKind::Program(program) => Self::Outside(private, program),
                }
            }
        })
    }

    /// The address of the host.
    fn host(self) -> IpAddr {
        let local = IpAddr::from([127, 0, 0, 1]);
        match self {
            Self::Outside(network, _) => network.host.unwrap_or(local),
            Self::Host | Self::Nothing => local,
        }
    }
}

/// `/etc/hosts`.
pub(crate) fn hosts(op: &RunOp, reach: Reach) -> String {
    let mut text = format!(
        "127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        op.hostname
    );
    for (name, address) in &op.extra_hosts {
        let host = reach.host().to_string();
        let address = if address == HOST_GATEWAY {
            &host
        } else {
            address
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

/// `/etc/resolv.conf`; `None` where the image's own is to be seen.
pub(crate) fn resolv_conf(
    reach: Reach,
    settings: &NetworkSettings,
) -> Result<Option<String>, Error> {
    if settings.name_servers == ["none"] {
        return Ok(None);
    }
    let mut text = read(RESOLV_CONF)?;
    let behind_systemd = servers(&text).eq([SYSTEMD]);
    if reach != Reach::Host && behind_systemd {
        let behind = read(BEHIND_SYSTEMD)?;
        if servers(&behind).next().is_some() {
            text = behind;
        }
    }
    Ok(Some(rewrite(&text, reach, settings)))
}

fn read(path: &str) -> Result<String, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(Error::Io {
            op: "read",
            path: Path::new(path).to_owned(),
            source,
        }),
    }
}

/// A line's keyword and what follows; comments have none.
fn split(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (key, rest) = line.split_once(char::is_whitespace)?;
    Some((key, rest.trim()))
}

fn servers(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(split)
        .filter(|(key, _)| *key == "nameserver")
        .filter_map(|(_, rest)| rest.split_whitespace().next())
}

/// The host's settings as they are true for the command.
fn rewrite(text: &str, reach: Reach, settings: &NetworkSettings) -> String {
    let is_given = |given: &[String]| !given.is_empty();
    let untouched = !is_given(&settings.name_servers)
        && !is_given(&settings.search)
        && !is_given(&settings.options);
    if reach == Reach::Host && untouched && servers(text).next().is_some() {
        return text.to_owned();
    }
    let mut lines = Vec::new();
    for server in name_servers(text, reach, settings) {
        lines.push(format!("nameserver {server}"));
    }
    let last = |wanted: &str| {
        let mut settings = text.lines().filter_map(split);
        settings.rfind(|(key, _)| *key == wanted)
    };
    let search = match settings.search.as_slice() {
        // Docker's word for none.
        [dot] if dot == "." => None,
        [] => last("search").map(|(_, rest)| rest.to_owned()),
        given => Some(given.join(" ")),
    };
    lines.extend(search.map(|domains| format!("search {domains}")));
    if is_given(&settings.options) {
        lines.push(format!("options {}", settings.options.join(" ")));
    } else {
        let options: Vec<&str> = text
            .lines()
            .filter_map(split)
            .filter(|(key, _)| *key == "options")
            .map(|(_, rest)| rest)
            .collect();
        if !options.is_empty() {
            lines.push(format!("options {}", options.join(" ")));
        }
    }
    let known = ["nameserver", "search", "options"];
    let others = text.lines().filter(|line| {
        let is_overruled = |key| key == "domain" && is_given(&settings.search);
        split(line).is_some_and(|(key, _)| !known.contains(&key) && !is_overruled(key))
    });
    lines.extend(others.map(str::to_owned));
    lines.push(String::new());
    lines.join("\n")
}

/// Those that are given, else the host's: without those that the command cannot reach, but with one that asks the host's
/// first one, if that is among them.
fn name_servers(text: &str, reach: Reach, settings: &NetworkSettings) -> Vec<String> {
    if !settings.name_servers.is_empty() {
        return settings.name_servers.clone();
    }
    let mut kept: Vec<String> = Vec::new();
    for (index, server) in servers(text).enumerate() {
        let (address, scope) = server
            .split_once('%')
            .map_or((server, None), |(address, scope)| (address, Some(scope)));
        let is_loopback = address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback());
        let is_lost = match reach {
            Reach::Host => false,
            Reach::Nothing => is_loopback,
            // pasta's interface has the name of the host's; the other's has not.
            Reach::Outside(_, NetworkProgram::Pasta) => is_loopback,
            Reach::Outside(_, NetworkProgram::Slirp4netns) => is_loopback || scope.is_some(),
        };
        match reach {
            _ if !is_lost => kept.push(server.to_owned()),
            Reach::Outside(network, _) if index == 0 => {
                kept.extend(network.name_server.map(|address| address.to_string()));
            }
            _ => {}
        }
    }
    if kept.is_empty() {
        return PUBLIC.map(str::to_owned).into();
    }
    kept
}

/// A proxy of the host's loopback among the variables of a command that cannot reach it.
pub(crate) fn lost_proxy(env: &[(String, String)], reach: Reach) -> Option<String> {
    if !matches!(reach, Reach::Outside(..)) {
        return None;
    }
    let (name, _) = env.iter().find(|(name, value)| {
        PROXIES.contains(&name.to_ascii_uppercase().as_str()) && is_local(value)
    })?;
    Some(format!(
        "{name} names a proxy on this machine's loopback, which commands do not reach from the build's own network: \
         `--network=host` shares this machine's, `--add-host NAME:host-gateway` gives it an address"
    ))
}

/// Whether a URL's host is the machine itself. What it says otherwise, such as a password, is looked at nowhere.
fn is_local(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside(program: NetworkProgram) -> Reach {
        let network = PrivateNetwork {
            kind: NetworkKind::Program(program),
            name_server: Some("10.0.2.3".parse().unwrap()),
            host: Some("10.0.2.2".parse().unwrap()),
        };
        Reach::Outside(network, program)
    }

    fn settings(servers: &[&str], search: &[&str], options: &[&str]) -> NetworkSettings {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        NetworkSettings {
            program: None,
            name_servers: owned(servers),
            search: owned(search),
            options: owned(options),
        }
    }

    const GOOGLE: &str = "nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n";

    /// RU13: what Docker writes, but that questions to a resolver on loopback still find it.
    #[test]
    fn ru13_resolver_settings() {
        let (pasta, slirp) = (
            outside(NetworkProgram::Pasta),
            outside(NetworkProgram::Slirp4netns),
        );
        let none = settings(&[], &[], &[]);
        let plain = "# made by hand\nnameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:2\nsortlist 10.0.0.0\n";
        let tidy = "nameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:2\nsortlist 10.0.0.0\n";
        let local = "nameserver 127.0.0.1\nnameserver 192.0.2.53\nnameserver ::1\n";
        let scoped = "nameserver fe80::1%eth0\n";
        let asking = "nameserver 10.0.2.3\n";
        for (text, reach, settings, expected) in [
            (plain, Reach::Host, &none, plain),
            (plain, pasta, &none, tidy),
            (plain, Reach::Nothing, &none, tidy),
            (local, Reach::Host, &none, local),
            (
                local,
                slirp,
                &none,
                "nameserver 10.0.2.3\nnameserver 192.0.2.53\n",
            ),
            (local, Reach::Nothing, &none, "nameserver 192.0.2.53\n"),
            (
                "nameserver 192.0.2.53\nnameserver 127.0.0.1\n",
                pasta,
                &none,
                "nameserver 192.0.2.53\n",
            ),
            ("nameserver ::ffff:127.0.0.1\n", pasta, &none, asking),
            (scoped, pasta, &none, scoped),
            (scoped, slirp, &none, asking),
            (
                "nameserver ::1\noptions edns0\n",
                pasta,
                &none,
                "nameserver 10.0.2.3\noptions edns0\n",
            ),
            ("nameserver 127.0.0.53\n", Reach::Nothing, &none, GOOGLE),
            ("", Reach::Host, &none, GOOGLE),
            ("", pasta, &none, GOOGLE),
            (
                "domain x.example\n",
                slirp,
                &settings(&["1.1.1.1"], &[], &[]),
                "nameserver 1.1.1.1\ndomain x.example\n",
            ),
            (
                plain,
                pasta,
                &settings(&["1.1.1.1", "::1"], &["c"], &["rotate", "timeout:1"]),
                "nameserver 1.1.1.1\nnameserver ::1\nsearch c\noptions rotate timeout:1\nsortlist 10.0.0.0\n",
            ),
            (
                plain,
                Reach::Host,
                &settings(&[], &["."], &[]),
                "nameserver 192.0.2.53\noptions ndots:2\nsortlist 10.0.0.0\n",
            ),
            (
                local,
                Reach::Host,
                &settings(&[], &["c"], &[]),
                "nameserver 127.0.0.1\nnameserver 192.0.2.53\nnameserver ::1\nsearch c\n",
            ),
        ] {
            assert_eq!(
                rewrite(text, reach, settings),
                expected,
                "{text:?} {reach:?}"
            );
        }
        let own = settings(&["none"], &[], &[]);
        assert_eq!(resolv_conf(pasta, &own).unwrap(), None);
    }

    #[test]
    fn proxies_of_the_machine_itself() {
        let pasta = outside(NetworkProgram::Pasta);
        for (value, lost) in [
            ("http://127.0.0.1:3128", true),
            ("http://user:p%40ss@localhost:3128/", true),
            ("socks5h://[::1]:1080", true),
            ("localhost:3128", true),
            ("http://proxy.example:3128", false),
            ("http://10.0.0.1", false),
            ("http://user@127.0.0.1@proxy.example", false),
        ] {
            let env = [("https_proxy".to_owned(), value.to_owned())];
            let note = lost_proxy(&env, pasta);
            assert_eq!(note.is_some(), lost, "{value}");
            assert!(
                note.is_none_or(|note| note.starts_with("https_proxy") && !note.contains("p%40ss"))
            );
            assert_eq!(lost_proxy(&env, Reach::Host), None);
        }
        let env = [("NO_PROXY".to_owned(), "localhost".to_owned())];
        assert_eq!(lost_proxy(&env, pasta), None);
    }
}
