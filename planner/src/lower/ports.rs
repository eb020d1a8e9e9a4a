//! EXPOSE's port specifications: `[[ip:]host-port:]port[-port][/protocol]`, as BuildKit reads them.

/// The `port/protocol` entries that a specification stands for.
///
/// # Errors
/// BuildKit's wording: no port, a bad number, range, protocol or address.
pub(super) fn expand(spec: &str) -> Result<Vec<String>, String> {
    parse(spec).map_err(|reason| format!("invalid port: {}: {reason}", super::gotext::quote(spec)))
}

fn parse(spec: &str) -> Result<Vec<String>, String> {
    let (address, host, container) = split(spec);
    let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
    if ports.is_empty() {
        return Err("no port specified".to_owned());
    }
    let protocol = match protocol.to_ascii_lowercase() {
        empty if empty.is_empty() => "tcp".to_owned(),
        known if ["tcp", "udp", "sctp"].contains(&known.as_str()) => known,
        unknown => return Err(format!("invalid proto: {unknown}")),
    };
    check_address(address)?;
    let (start, end) =
        range(ports).map_err(|reason| format!("invalid containerPort: {ports}: {reason}"))?;
    if !host.is_empty() {
        let (host_start, host_end) =
            range(host).map_err(|reason| format!("invalid hostPort: {host}: {reason}"))?;
        if end - start != host_end - host_start && end != start {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {ports} and {host}"
            ));
        }
    }
    Ok((start..=end)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// Address, host port and container port; the last two colons divide, so that IPv6 needs no brackets.
fn split(spec: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = spec.rsplit_once(':') else {
        return ("", "", spec);
    };
    match rest.rsplit_once(':') {
        Some((address, host)) => (address, host, container),
        None => ("", rest, container),
    }
}

fn check_address(address: &str) -> Result<(), String> {
    let bare = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    if bare.is_empty() || bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(format!("invalid IP address: {address}"))
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let number = |part: &str| match part.parse::<u16>() {
        Ok(port) if !part.starts_with('+') => Ok(port),
        _ if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) => {
            Err("value out of range (0–65535)".to_owned())
        }
        _ if part.is_empty() => Err("value is empty".to_owned()),
        _ => Err("invalid syntax".to_owned()),
    };
    let Some((start, end)) = text.split_once('-') else {
        return number(text).map(|port| (port, port));
    };
    let start =
        number(start).map_err(|reason| format!("invalid start port '{start}': {reason}"))?;
    let end = number(end).map_err(|reason| format!("invalid end port '{end}': {reason}"))?;
    if end < start {
        return Err(format!("invalid port range: {text}"));
    }
    Ok((start, end))
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn specifications_expand() {
        let cases: [(&str, &[&str]); 12] = [
            ("80", &["80/tcp"]),
            ("80/UDP", &["80/udp"]),
            ("80/", &["80/tcp"]),
            ("3000-3002/sctp", &["3000/sctp", "3001/sctp", "3002/sctp"]),
            ("8080:80", &["80/tcp"]),
            ("127.0.0.1:8080:80", &["80/tcp"]),
            ("127.0.0.1::80", &["80/tcp"]),
            ("[::1]:80:80", &["80/tcp"]),
            ("::1:80:80", &["80/tcp"]),
            ("::::80", &["80/tcp"]),
            ("2001:4860:0:2001::68::333", &["333/tcp"]),
            ("8000-9000:80", &["80/tcp"]),
        ];
        for (spec, expected) in cases {
            assert_eq!(expand(spec).expect(spec), expected, "{spec}");
        }
    }

    #[test]
    fn bad_specifications_are_refused() {
        let cases = [
            ("", "invalid port: \"\": no port specified"),
            (
                "0.0.0.0:1234-1235:/tcp",
                "invalid port: \"0.0.0.0:1234-1235:/tcp\": no port specified",
            ),
            ("80/icmp", "invalid port: \"80/icmp\": invalid proto: icmp"),
            (
                "foo",
                "invalid port: \"foo\": invalid containerPort: foo: invalid syntax",
            ),
            (
                "65536",
                "invalid port: \"65536\": invalid containerPort: 65536: value out of range (0–65535)",
            ),
            (
                "90-80",
                "invalid port: \"90-80\": invalid containerPort: 90-80: invalid port range: 90-80",
            ),
            (
                "300.300.0.1:1:2",
                "invalid port: \"300.300.0.1:1:2\": invalid IP address: 300.300.0.1",
            ),
            (
                "1-2:3-9",
                "invalid port: \"1-2:3-9\": invalid ranges specified for container and host Ports: 3-9 and 1-2",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(expand(spec).expect_err(spec), expected, "{spec}");
        }
    }
}
