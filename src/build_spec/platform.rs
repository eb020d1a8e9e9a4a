//! `--platform`: one platform or a list, and `DOCKER_DEFAULT_PLATFORM`.

use super::usage;
use crate::environment::Environment;
use crate::error::Failure;
use planner::platform::Platform;

/// The platforms of a build in the order asked for, each once. Empty when nothing is asked for.
pub fn list(raw: &[String], environment: &Environment) -> Result<Vec<Platform>, Failure> {
    let default: Vec<String> = match environment.get("DOCKER_DEFAULT_PLATFORM") {
        Some(list) if raw.is_empty() && !list.is_empty() => {
            list.split(',').map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    let mut platforms = Vec::new();
    for text in raw.iter().chain(&default) {
        let platform = one(text.trim())?;
        if platform.os == "windows" {
            return Err(invalid(text, "Windows images are not supported"));
        }
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// One platform; `local` is the machine's.
pub fn one(text: &str) -> Result<Platform, Failure> {
    if text.eq_ignore_ascii_case("local") {
        return Ok(Platform::host());
    }
    Platform::parse(text, &Platform::host()).map_err(|error| invalid(text, error))
}

fn invalid(text: &str, reason: impl std::fmt::Display) -> Failure {
    usage(format!("invalid value {text:?} for '--platform': {reason}"))
}
