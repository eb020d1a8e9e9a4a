//! Signal names that STOPSIGNAL takes: Linux's, with or without `SIG`, or a number.

const NAMES: [&str; 33] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU",
];

/// Whether a signal exists.
///
/// # Errors
/// BuildKit's wording.
pub(super) fn check(signal: &str) -> Result<(), String> {
    let known = match signal.parse::<i64>() {
        Ok(number) => number != 0,
        Err(_) => is_name(&signal.to_uppercase()),
    };
    if known {
        Ok(())
    } else {
        Err(format!("invalid signal: {signal}"))
    }
}

fn is_name(signal: &str) -> bool {
    let name = signal.strip_prefix("SIG").unwrap_or(signal);
    NAMES.contains(&name) || name == "XFSZ" || is_real_time(name)
}

/// `RTMIN`, `RTMIN+1` to `+15`, `RTMAX-14` to `-1`, `RTMAX`.
fn is_real_time(name: &str) -> bool {
    let offset = |text: &str, max| text.parse::<u8>().is_ok_and(|n| (1..=max).contains(&n));
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) | (_, Some("")) => true,
        (Some(rest), _) => rest.strip_prefix('+').is_some_and(|n| offset(n, 15)),
        (_, Some(rest)) => rest.strip_prefix('-').is_some_and(|n| offset(n, 14)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn signals_are_checked() {
        for signal in [
            "9",
            "SIGTERM",
            "term",
            "SIGINT",
            "RTMIN",
            "SIGRTMIN+3",
            "RTMAX-14",
            "SIGXFSZ",
        ] {
            assert_eq!(check(signal), Ok(()), "{signal}");
        }
        for signal in ["", "0", "SIGFOO", "RTMIN+16", "RTMAX-15", "RTMIN3", "TERM "] {
            assert_eq!(
                check(signal),
                Err(format!("invalid signal: {signal}")),
                "{signal}"
            );
        }
    }
}
