//! Where pasta passes questions for names on to a name server of the host's loopback, which commands cannot reach themselves.
//!
//! Only there: asked for an address of its own, pasta (2023) has answers of the host's first name server come from that
//! address alone, whomever the command asked, and a command that asked the server itself would throw them away.

use super::routes::Routes;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of no network (RFC 3927), as Podman uses it.
const V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6: an address of a network (RFC 4193) that nobody else has.
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x6b69, 0x6c6e, 0, 0, 0, 0, 0x53);

/// What is to be done about names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Forward {
    /// Commands reach the host's name servers.
    Nothing,
    /// Pass on what comes to this address.
    At(IpAddr),
    /// The host's name server is out of reach, for this reason.
    Impossible(String),
}

/// By the host's settings.
pub(super) fn forward(routes: Routes) -> Forward {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    decide(&text, routes)
}

fn decide(settings: &str, routes: Routes) -> Forward {
    let first = settings.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server)
    });
    let Some(server) = first.and_then(|text| text.parse::<IpAddr>().ok()) else {
        return Forward::Nothing;
    };
    if !server.to_canonical().is_loopback() {
        return Forward::Nothing;
    }
    match server {
        IpAddr::V4(_) if routes.v4 => Forward::At(V4.into()),
        IpAddr::V6(_) if routes.v6 => Forward::At(V6.into()),
        _ => {
            let family = if routes.v4 { "IPv4" } else { "IPv6" };
            Forward::Impossible(format!(
                "commands cannot ask this machine's name server {server}: it is on loopback, and pasta has {family} only here \
                 (`--dns ADDRESS` names another, `--network=host` shares this machine's network)"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_loopback_is_passed_on() {
        let routes = |v4, v6| Routes {
            v4,
            v6,
            ..Routes::default()
        };
        for (text, families, expected) in [
            ("", (true, true), Forward::Nothing),
            (
                "nameserver 192.0.2.1\nnameserver 127.0.0.1\n",
                (true, true),
                Forward::Nothing,
            ),
            (
                "# nameserver 192.0.2.1\nnameserver 127.0.0.53\n",
                (true, false),
                Forward::At(V4.into()),
            ),
            (
                "search a\nnameserver ::1\n",
                (false, true),
                Forward::At(V6.into()),
            ),
            ("nameserver ::1\n", (true, true), Forward::At(V6.into())),
            ("nameserver fe80::1%eth0\n", (true, true), Forward::Nothing),
        ] {
            assert_eq!(
                decide(text, routes(families.0, families.1)),
                expected,
                "{text}"
            );
        }
        for (text, families, says) in [
            ("nameserver ::1", (true, false), "pasta has IPv4 only"),
            ("nameserver 127.0.0.1", (false, true), "pasta has IPv6 only"),
        ] {
            let Forward::Impossible(said) = decide(text, routes(families.0, families.1)) else {
                panic!("{text}")
            };
            assert!(said.contains(says), "{said}");
        }
    }
}
