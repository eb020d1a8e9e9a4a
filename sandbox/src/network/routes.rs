//! What the kernel's routing tables say, as `/proc/net` shows them for the namespace of the reader.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Routes of a network namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Routes {
    /// Whether anything but the machine itself can be reached.
    pub(super) lead_out: bool,
    /// The same for IPv4 alone.
    pub(super) v4: bool,
    /// The same for IPv6 alone.
    pub(super) v6: bool,
    /// Next hop of a default route, IPv4 first.
    pub(super) gateway: Option<IpAddr>,
}

/// Of this process's namespace.
pub(super) fn read() -> Routes {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    parse(
        &text("/proc/thread-self/net/route"),
        &text("/proc/thread-self/net/ipv6_route"),
    )
}

/// `RTF_UP`, `RTF_REJECT`, `RTF_LOCAL` of linux/route.h and linux/ipv6_route.h.
const UP: u32 = 0x1;
const REJECT: u32 = 0x200;
const LOCAL: u32 = 0x8000_0000;

fn parse(v4: &str, v6: &str) -> Routes {
    let mut routes = Routes::default();
    let mut gateway4 = None;
    let mut gateway6 = None;
    for line in v4.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [device, target, gateway, flags, ..] = fields[..] else {
            continue;
        };
        let flags = u32::from_str_radix(flags, 16).unwrap_or(0);
        if device == "lo" || flags & UP == 0 || flags & REJECT != 0 {
            continue;
        }
        routes.v4 = true;
        if let (Ok(0), Ok(gateway @ 1..)) = (
            u32::from_str_radix(target, 16),
            u32::from_str_radix(gateway, 16),
        ) {
            // Numbers of network order, printed as the machine's own.
            gateway4.get_or_insert(Ipv4Addr::from(gateway.to_ne_bytes()));
        }
    }
    for line in v6.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [target, length, _, _, gateway, _, _, _, flags, device] = fields[..] else {
            continue;
        };
        let flags = u32::from_str_radix(flags, 16).unwrap_or(0);
        let scoped = target.starts_with("fe8") || target.starts_with("ff");
        if device == "lo" || flags & UP == 0 || flags & (REJECT | LOCAL) != 0 || scoped {
            continue;
        }
        routes.v6 = true;
        if let ("00", Ok(gateway @ 1..)) = (length, u128::from_str_radix(gateway, 16)) {
            gateway6.get_or_insert(Ipv6Addr::from(gateway));
        }
    }
    routes.lead_out = routes.v4 || routes.v6;
    routes.gateway = gateway4.map(IpAddr::V4).or(gateway6.map(IpAddr::V6));
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    #[test]
    fn tables_of_both_families() {
        let first_gateway = u32::from_ne_bytes([192, 0, 2, 1]);
        let v4 = format!(
            "{HEAD}eth0\t00000000\t{first_gateway:08X}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        );
        let none = "0".repeat(32);
        let v6 = |target: &str, length: &str, gateway: &str, flags: &str, device: &str| {
            format!(
                "{target} {length} {none} 00 {gateway} 00000400 00000001 00000000 {flags} {device}\n"
            )
        };
        let own = v6(&none, "00", &none, "00200200", "lo");
        let local = v6(&format!("{:0<32}", "fe80"), "40", &none, "00000001", "eth0");
        let router = format!("{:0<31}1", "fe80");
        let way_out = v6(&none, "00", &router, "00000003", "eth0");
        let address = v6(
            &format!("{:0<31}2", "fd00"),
            "80",
            &none,
            "80200001",
            "eth0",
        );
        for (v4, v6, families, gateway) in [
            ("", String::new(), (false, false), None),
            (HEAD, format!("{own}{local}{address}"), (false, false), None),
            (&v4, own, (true, false), Some("192.0.2.1")),
            (HEAD, way_out.clone(), (false, true), Some("fe80::1")),
            (&v4, way_out, (true, true), Some("192.0.2.1")),
            (
                &format!("{HEAD}lan0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"),
                String::new(),
                (true, false),
                None,
            ),
        ] {
            let routes = parse(v4, &v6);
            let gateway = gateway.map(|text| text.parse().unwrap());
            let expected = Routes {
                lead_out: families.0 || families.1,
                v4: families.0,
                v6: families.1,
                gateway,
            };
            assert_eq!(routes, expected, "{v4}{v6}");
        }
    }
}
