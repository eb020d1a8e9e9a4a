//! EXPOSE words after expansion: `[ip:][host:]port[-port][/protocol]`.

use crate::quote::quote;
use std::net::IpAddr;

/// What one EXPOSE word says. Addresses and host ports are checked and mean nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ports {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Whether an address or a host port was written (build check ExposeInvalidFormat).
    pub has_host: bool,
    /// Whether the protocol was written in capitals (build check ExposeProtoCasing).
    pub odd_case: bool,
}

impl Ports {
    /// The ports as they stand in an image's config: `80/tcp`.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        (self.first..=self.last)
            .map(|port| format!("{port}/{}", self.protocol))
            .collect()
    }
}

/// Parses one word.
///
/// # Errors
/// BuildKit's messages for a missing port, a bad number, range, protocol or address.
pub fn parse(word: &str) -> Result<Ports, String> {
    let (address, host, container) = split(word);
    let (container, protocol) =
        protocol(container).map_err(|error| format!("invalid port: {}: {error}", quote(word)))?;
    check_address(address)?;
    let (first, last) =
        range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    if !host.is_empty() {
        let (host_first, host_last) =
            range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        // A range of host ports may serve one port.
        if last - first != host_last - host_first && first != last {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
    }
    Ok(Ports {
        first,
        last,
        protocol: protocol.to_lowercase(),
        has_host: !address.is_empty() || !host.is_empty(),
        odd_case: protocol.chars().any(char::is_uppercase),
    })
}

/// Address, host port and container port; an IPv6 address has colons of its own.
fn split(word: &str) -> (&str, &str, &str) {
    let Some((before, container)) = word.rsplit_once(':') else {
        return ("", "", word);
    };
    match before.rsplit_once(':') {
        Some((address, host)) => (address, host, container),
        None => ("", before, container),
    }
}

fn protocol(container: &str) -> Result<(&str, &str), String> {
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err("no port specified".to_owned());
    }
    match protocol.to_lowercase().as_str() {
        "" => Ok((port, "tcp")),
        "tcp" | "udp" | "sctp" => Ok((port, protocol)),
        _ => Err(format!("invalid proto: {protocol}")),
    }
}

fn check_address(address: &str) -> Result<(), String> {
    let bare = match address.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .ok_or_else(|| format!("invalid IP address {address}: missing ']' in address"))?,
        None => address,
    };
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {bare}"));
    }
    Ok(())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

fn number(text: &str) -> Option<u16> {
    text.parse::<i64>()
        .ok()
        .and_then(|number| u16::try_from(number).ok())
}
