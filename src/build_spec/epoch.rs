//! SOURCE_DATE_EPOCH as a flag gives it: seconds since 1970-01-01. The names it may have instead (`context`, a stage,
//! a named context) belong to the Dockerfile and are resolved by the build.

/// Seconds; `None` for an empty value.
pub fn seconds(text: &str) -> Result<Option<i64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(seconds) if seconds >= 0 => Ok(Some(seconds)),
        _ => Err(format!(
            "invalid SOURCE_DATE_EPOCH: {text}: expected seconds since 1970-01-01"
        )),
    }
}
