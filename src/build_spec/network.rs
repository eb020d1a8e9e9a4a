//! The network of RUN steps: `--network` with Docker's words and Buildah's, `--dns` and the like, `--add-host`.

use super::usage;
use crate::args::NetworkArgs;
use crate::error::Failure;
use executor::request::NetworkSettings;
use planner::plan::Network;
use sandbox::NetworkProgram;
use std::net::IpAddr;

/// `--network`: what it is for steps that say nothing, and the program that must connect it.
pub fn mode(text: &str) -> Result<(Network, Option<NetworkProgram>), Failure> {
    match text {
        "" | "default" | "private" => Ok((Network::Default, None)),
        "none" => Ok((Network::None, None)),
        "host" => Ok((Network::Host, None)),
        "pasta" => Ok((Network::Default, Some(NetworkProgram::Pasta))),
        "slirp4netns" => Ok((Network::Default, Some(NetworkProgram::Slirp4netns))),
        other => Err(usage(format!(
            "network mode {other:?} is not supported: expected default, none, host, private, pasta or slirp4netns"
        ))),
    }
}

/// What the flags say but for the mode.
pub fn settings(args: &NetworkArgs) -> Result<NetworkSettings, Failure> {
    let (_, program) = mode(&args.network)?;
    for server in &args.dns {
        let address = server.split('%').next().unwrap_or(server);
        if address.parse::<IpAddr>().is_err() && args.dns != ["none"] {
            return Err(usage(format!(
                "invalid value {server:?} for '--dns': expected an IP address, or none alone"
            )));
        }
    }
    let words = [
        ("--dns-search", &args.dns_search),
        ("--dns-option", &args.dns_option),
    ];
    for (flag, values) in words {
        let is_bad = |value: &&String| value.is_empty() || value.contains(char::is_whitespace);
        if let Some(value) = values.iter().find(is_bad) {
            return Err(usage(format!(
                "invalid value {value:?} for '{flag}': expected one word"
            )));
        }
    }
    if args.dns == ["none"] && !(args.dns_search.is_empty() && args.dns_option.is_empty()) {
        return Err(usage(
            "--dns none keeps the image's resolv.conf: --dns-search and --dns-option change nothing in it",
        ));
    }
    Ok(NetworkSettings {
        program,
        name_servers: args.dns.clone(),
        search: args.dns_search.clone(),
        options: args.dns_option.clone(),
    })
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`, with several names as `NAME;NAME`; an address may be in brackets.
pub fn hosts(raw: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let mut hosts = Vec::new();
    for text in raw {
        let invalid = |reason: &str| {
            Err(usage(format!(
                "invalid value {text:?} for '--add-host': {reason}"
            )))
        };
        let split = text.split_once('=').or_else(|| text.split_once(':'));
        let Some((names, address)) =
            split.filter(|(names, address)| !names.is_empty() && !address.is_empty())
        else {
            return invalid("expected HOST:IP");
        };
        let address = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(address);
        if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
            return invalid(&format!("{address:?} is not an IP address or host-gateway"));
        }
        for name in names.split(';') {
            if name.is_empty() || name.contains(char::is_whitespace) {
                return invalid(&format!("{name:?} is not the name of a host"));
            }
            hosts.push((name.to_owned(), address.to_owned()));
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dns: &[&str], search: &[&str]) -> NetworkArgs {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        NetworkArgs {
            dns: owned(dns),
            dns_search: owned(search),
            ..NetworkArgs::default()
        }
    }

    /// RU18.
    #[test]
    fn ru18_hosts() {
        let one = |text: &str| hosts(&[text.to_owned()]).ok();
        let host = |name: &str, address: &str| (name.to_owned(), address.to_owned());
        for (text, address) in [
            ("a:127.0.0.1", "127.0.0.1"),
            ("a:host-gateway", "host-gateway"),
            ("a=host-gateway", "host-gateway"),
            ("a=::1", "::1"),
            ("a:::1", "::1"),
            ("a:[::1]", "::1"),
        ] {
            assert_eq!(one(text), Some(vec![host("a", address)]), "{text}");
        }
        let two = vec![host("a", "1.2.3.4"), host("b.c", "1.2.3.4")];
        assert_eq!(one("a;b.c:1.2.3.4"), Some(two));
        for bad in ["a", "a:", ":1.2.3.4", "a:b", "a b:1.2.3.4", "a;:1.2.3.4"] {
            assert!(one(bad).is_none(), "{bad}");
        }
    }

    /// RU13.
    #[test]
    fn ru13_modes() {
        assert_eq!(mode("private").ok(), Some((Network::Default, None)));
        let slirp = Some(NetworkProgram::Slirp4netns);
        assert_eq!(mode("slirp4netns").ok(), Some((Network::Default, slirp)));
        for bad in ["bridge", "ns:/run/netns/x", "pasta:-T,80", "container:x"] {
            let Err(Failure::Usage(message)) = mode(bad) else {
                panic!("{bad}");
            };
            assert!(message.contains(&format!("network mode {bad:?} is not supported")));
        }
    }

    #[test]
    fn resolvers() {
        let given = settings(&args(&["1.1.1.1", "fe80::1%eth0"], &["a.b", "c"]))
            .ok()
            .unwrap();
        assert_eq!(given.name_servers, ["1.1.1.1", "fe80::1%eth0"]);
        assert!(settings(&args(&["none"], &[])).is_ok());
        for (dns, search) in [
            (&["none", "1.1.1.1"][..], &[][..]),
            (&["dns.example"], &[]),
            (&["none"], &["a"]),
            (&[], &["a b"]),
            (&[], &["a\nnameserver 1.1.1.1"]),
        ] {
            assert!(settings(&args(dns, search)).is_err(), "{dns:?} {search:?}");
        }
    }
}
