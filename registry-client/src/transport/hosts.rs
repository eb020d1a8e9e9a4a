//! Host lists: which hosts are loopback, insecure by setting, or reached without a proxy.

use reqwest::Url;
use std::net::IpAddr;

/// `host[:port]` in its parts; IPv6 without brackets.
pub(crate) fn split(registry: &str) -> (&str, Option<u16>) {
    if let Some(rest) = registry.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').unwrap_or((rest, ""));
        return (
            host,
            rest.strip_prefix(':').and_then(|port| port.parse().ok()),
        );
    }
    match registry.rsplit_once(':') {
        // Two colons without brackets are a bare IPv6 address.
        Some((host, port)) if !host.contains(':') => (host, port.parse().ok()),
        _ => (registry, None),
    }
}

/// This machine: `localhost` and its subdomains (RFC 6761), 127.0.0.0/8, ::1.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Whether a list of `host`, `host:port` and `address/bits` entries names this host.
pub(crate) fn listed(list: &[String], host: &str, port: Option<u16>) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    list.iter().any(|entry| {
        if in_block(entry, host) {
            return true;
        }
        let (name, wanted) = split(entry.trim());
        name.eq_ignore_ascii_case(host) && (wanted.is_none() || wanted == port)
    })
}

/// Whether a URL is to be reached directly, by the rules of `NO_PROXY`: `*`, domains with their subdomains,
/// addresses, blocks of addresses, each with an optional port. Loopback is never reached through a proxy.
pub(crate) fn bypasses_proxy(no_proxy: &str, url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if is_loopback(host) {
        return true;
    }
    let entries = no_proxy.split([',', ' ']).map(str::trim);
    entries.filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" || in_block(entry, host) {
            return true;
        }
        let (name, port) = split(entry);
        if port.is_some() && port != url.port_or_known_default() {
            return false;
        }
        let only_below = name.starts_with('.') || name.starts_with("*.");
        let name = name.trim_start_matches('*').trim_start_matches('.');
        let name = name.to_ascii_lowercase();
        let below = host
            .strip_suffix(name.as_str())
            .is_some_and(|rest| rest.ends_with('.'));
        below || (!only_below && host == name)
    })
}

/// Whether `address/bits` contains the host, which must be an address too.
fn in_block(block: &str, host: &str) -> bool {
    let Some((network, bits)) = block.split_once('/') else {
        return false;
    };
    let (Ok(network), Ok(bits), Ok(host)) = (
        network.trim().parse::<IpAddr>(),
        bits.trim().parse::<u32>(),
        host.parse::<IpAddr>(),
    ) else {
        return false;
    };
    match (network, host) {
        (IpAddr::V4(network), IpAddr::V4(host)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(network) & mask == u32::from(host) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(host)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(network) & mask == u128::from(host) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_rules() {
        let cases = [
            ("", "http://127.0.0.9/", true),
            ("", "http://localhost:5000/", true),
            ("", "http://[::1]:5000/", true),
            ("", "http://r.example/", false),
            ("*", "http://r.example/", true),
            ("example.com", "http://example.com/", true),
            ("example.com", "http://r.example.com/", true),
            ("example.com", "http://rexample.com/", false),
            (".example.com", "http://example.com/", false),
            (".example.com", "http://r.example.com/", true),
            ("*.example.com", "http://r.example.com/", true),
            ("a, Example.com:5000", "http://example.com:5000/", true),
            ("example.com:5000", "http://example.com:5001/", false),
            ("10.0.0.0/8", "http://10.9.8.7/", true),
            ("10.0.0.0/8", "http://11.9.8.7/", false),
            ("0.0.0.0/0", "http://11.9.8.7/", true),
            ("fd00::/8", "http://[fd12::1]/", true),
            ("fd12::1", "http://[fd12::1]/", true),
        ];
        for (list, url, expected) in cases {
            let url = Url::parse(url).unwrap();
            assert_eq!(bypasses_proxy(list, &url), expected, "{list:?} {url}");
        }
    }

    #[test]
    fn insecure_list() {
        let list = ["reg.example", "other:5000", "10.1.0.0/16", "[fd00::1]:5000"];
        let list = list.map(str::to_owned);
        let cases = [
            ("reg.example", "reg.example", None, true),
            ("any port", "reg.example", Some(5000), true),
            ("its port", "other", Some(5000), true),
            ("not its port", "other", Some(5001), false),
            ("block", "10.1.2.3", Some(80), true),
            ("outside", "10.2.2.3", Some(80), false),
            ("v6", "[fd00::1]", Some(5000), true),
        ];
        for (name, host, port, expected) in cases {
            assert_eq!(listed(&list, host, port), expected, "{name}");
        }
        assert!(is_loopback("[::1]") && is_loopback("127.3.2.1") && is_loopback("a.localhost"));
        assert!(!is_loopback("128.0.0.1") && !is_loopback("localhost.example"));
    }
}
