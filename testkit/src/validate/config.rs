//! The image configuration: image-spec config.md.

use serde_json::Value;

/// All findings about a config that has to describe `layers` layers.
pub(super) fn check(config: &Value, platform: &Value, layers: usize) -> Vec<String> {
    let mut findings = Vec::new();
    if let Err(error) =
        serde_json::from_value::<oci_spec::image::ImageConfiguration>(config.clone())
    {
        findings.push(error.to_string());
    }
    for field in ["architecture", "os"] {
        let own = &config[field];
        if own.as_str().is_none_or(str::is_empty) {
            findings.push(format!("{field} is missing"));
        }
        if !platform[field].is_null() && platform[field] != *own {
            findings.push(format!(
                "{field} is {own}, its descriptor says {}",
                platform[field]
            ));
        }
    }
    if config["rootfs"]["type"] != "layers" {
        findings.push("rootfs.type is not layers".into());
    }
    let diff_ids = config["rootfs"]["diff_ids"].as_array().map_or(0, Vec::len);
    if diff_ids != layers {
        findings.push(format!("{diff_ids} diff_ids for {layers} layers"));
    }
    findings.extend(history(config, layers));
    if let Some(created) = config.get("created")
        && !created.as_str().is_some_and(is_rfc3339)
    {
        findings.push(format!("created is {created}"));
    }
    if let Some(run) = config.get("config") {
        findings.extend(execution(run));
    }
    findings
}

fn history(config: &Value, layers: usize) -> Vec<String> {
    let Some(history) = config.get("history").filter(|history| !history.is_null()) else {
        return Vec::new();
    };
    let Some(entries) = history.as_array() else {
        return vec!["history is not a list".into()];
    };
    let mut findings = Vec::new();
    let with_layer = entries
        .iter()
        .filter(|entry| entry["empty_layer"] != true)
        .count();
    if with_layer != layers {
        findings.push(format!(
            "history tells of {with_layer} layers, there are {layers}"
        ));
    }
    for entry in entries {
        if let Some(created) = entry.get("created")
            && !created.as_str().is_some_and(is_rfc3339)
        {
            findings.push(format!("history: created is {created}"));
        }
    }
    findings
}

/// The execution parameters.
fn execution(run: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for field in ["Env", "Entrypoint", "Cmd", "OnBuild", "Shell"] {
        let sound = |list: &Value| {
            list.as_array()
                .is_some_and(|l| l.iter().all(Value::is_string))
        };
        if run
            .get(field)
            .is_some_and(|list| !list.is_null() && !sound(list))
        {
            findings.push(format!("{field} is not a list of strings"));
        }
    }
    for variable in run["Env"].as_array().into_iter().flatten() {
        if !variable.as_str().is_some_and(|text| text.contains('=')) {
            findings.push(format!("Env has {variable}, which is no NAME=VALUE"));
        }
    }
    for field in ["ExposedPorts", "Volumes"] {
        let sound = |map: &Value| {
            map.as_object().is_some_and(|map| {
                map.values()
                    .all(|v| v.as_object().is_some_and(serde_json::Map::is_empty))
            })
        };
        if run
            .get(field)
            .is_some_and(|map| !map.is_null() && !sound(map))
        {
            findings.push(format!("{field} is not a set"));
        }
    }
    for port in run["ExposedPorts"].as_object().into_iter().flatten() {
        if !is_port(port.0) {
            findings.push(format!("ExposedPorts has {:?}", port.0));
        }
    }
    if run
        .get("Labels")
        .is_some_and(|map| !map.is_null() && !is_string_map(map))
    {
        findings.push("Labels are not strings".into());
    }
    for field in ["User", "WorkingDir", "StopSignal"] {
        if run.get(field).is_some_and(|value| !value.is_string()) {
            findings.push(format!("{field} is not a string"));
        }
    }
    let folder = run["WorkingDir"].as_str().unwrap_or_default();
    if !folder.is_empty() && !folder.starts_with('/') {
        findings.push(format!("WorkingDir is {folder:?}"));
    }
    findings
}

pub(super) fn is_string_map(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|map| map.values().all(Value::is_string))
}

fn is_port(text: &str) -> bool {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    port.parse::<u16>().is_ok() && matches!(protocol, "tcp" | "udp" | "sctp")
}

/// `2006-01-02T15:04:05[.999]Z` or with an offset (RFC 3339 section 5.6).
fn is_rfc3339(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let Some((date, time)) = text.split_once(['T', 't']) else {
        return false;
    };
    let date_ok = {
        let parts: Vec<&str> = date.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        lengths == [4, 2, 2] && parts.iter().all(|part| digits(part))
    };
    let Some(clock) = time.get(..8) else {
        return false;
    };
    let clock_ok =
        clock.split(':').count() == 3 && clock.split(':').all(|p| p.len() == 2 && digits(p));
    let rest = &time[8..];
    let zone_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (fraction, zone) = rest.split_at(zone_at);
    let fraction_ok = fraction.is_empty() || fraction.strip_prefix('.').is_some_and(digits);
    let zone_ok = matches!(zone, "Z" | "z")
        || zone.get(1..).is_some_and(|offset| {
            offset.len() == 5 && offset.split(':').count() == 2 && offset.split(':').all(digits)
        });
    date_ok && clock_ok && fraction_ok && zone_ok
}
