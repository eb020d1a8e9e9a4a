//! `RUN --device=` values: `vendor/class=name`, `required`.

use crate::{csv, suggest, value};

/// A device request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Device {
    /// CDI name: `vendor/class`, `vendor/class=name`, or a class of annotations.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// Parses a `--device` value.
///
/// # Errors
/// A second name, an unknown key, a value that is no boolean.
pub fn parse(text: &str) -> Result<Device, String> {
    let fields =
        csv::fields(text).map_err(|error| format!("failed to parse csv devices: {error}"))?;
    let mut device = Device::default();
    for field in fields {
        let Some((key, value)) = field.split_once('=') else {
            if field.eq_ignore_ascii_case("required") {
                device.required = true;
            } else if device.name.is_empty() {
                device.name = field;
            } else {
                return Err(format!("invalid field '{field}' must be a key=value pair"));
            }
            continue;
        };
        match key.to_lowercase().as_str() {
            "name" if device.name.is_empty() => device.name = value.to_owned(),
            "name" => return Err(format!("device name already set to {}", device.name)),
            "required" => {
                device.required = value::boolean(value)
                    .ok_or_else(|| format!("invalid value for required: {value}"))?;
            }
            // A name has an equals sign of its own.
            _ if device.name.is_empty() => device.name = field,
            key => {
                let message = format!("unexpected key '{key}' in '{field}'");
                return Err(match suggest::nearest(key, &["name", "required"]) {
                    Some(near) => format!("{message} (did you mean {near}?)"),
                    None => message,
                });
            }
        }
    }
    Ok(device)
}
