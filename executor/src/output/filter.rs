//! Filters of image lists, as Docker spells and words them.

use crate::Error;
use crate::context::glob::Glob;
use crate::output::ImageSummary;
use crate::output::images;
use crate::space::Space;
use jiff::Timestamp;
use std::time::{Duration, SystemTime};

/// What an image must be to be listed, or pruned.
#[derive(Clone, Debug, Default)]
pub struct ImageFilters {
    dangling: Option<bool>,
    /// Patterns, and whether they are for whole names.
    references: Vec<(Glob, bool)>,
    /// Label, value when one is asked for, and whether it must not be so.
    labels: Vec<(String, Option<String>, bool)>,
    since: Vec<String>,
    before: Vec<String>,
    until: Option<SystemTime>,
}

/// Keys of [`ImageFilters::parse`] for lists.
pub const LIST_FILTERS: &[&str] = &["dangling", "reference", "label", "since", "before", "until"];
/// Keys of [`ImageFilters::parse`] for pruning.
pub const PRUNE_FILTERS: &[&str] = &["until", "label", "label!"];

impl ImageFilters {
    /// Reads `key=value` filters; only `allowed` keys may be used.
    ///
    /// # Errors
    /// Unknown keys and values that cannot be understood.
    pub fn parse(filters: &[String], allowed: &[&str], now: SystemTime) -> Result<Self, Error> {
        let mut parsed = Self::default();
        for filter in filters {
            let Some((key, value)) = filter.split_once('=') else {
                let message = "bad format of filter (expected name=value)";
                return Err(Error::Request(format!("{message}: {filter:?}")));
            };
            let (key, value) = (key.trim().to_lowercase(), value.trim());
            if !allowed.contains(&key.as_str()) {
                return Err(Error::Request(format!("invalid filter '{key}'")));
            }
            parsed.set(&key, value, now)?;
        }
        Ok(parsed)
    }

    fn set(&mut self, key: &str, value: &str, now: SystemTime) -> Result<(), Error> {
        let invalid = || Error::Request(format!("invalid filter '{key}={value}'"));
        match key {
            "dangling" => {
                let wanted = match value.to_ascii_lowercase().as_str() {
                    "1" | "t" | "true" => true,
                    "0" | "f" | "false" => false,
                    _ => return Err(invalid()),
                };
                self.dangling = Some(wanted);
            }
            "reference" => self.reference(value)?,
            "since" => self.since.push(value.to_owned()),
            "before" => self.before.push(value.to_owned()),
            "until" => self.until = Some(moment(value, now).ok_or_else(invalid)?),
            _ => {
                let (label, wanted) = match value.split_once('=') {
                    Some((label, wanted)) => (label, Some(wanted.to_owned())),
                    None => (value, None),
                };
                self.labels
                    .push((label.to_owned(), wanted, key == "label!"));
            }
        }
        Ok(())
    }

    /// Only images that a pattern names.
    ///
    /// # Errors
    /// A malformed pattern.
    pub fn reference(&mut self, pattern: &str) -> Result<(), Error> {
        let glob = Glob::new(pattern.as_bytes());
        let glob = glob.map_err(|error| Error::Request(format!("{error}: {pattern:?}")))?;
        self.references
            .push((glob, pattern.starts_with("docker.io/")));
        Ok(())
    }

    /// The time of `until=`.
    #[must_use]
    pub fn until(&self) -> Option<SystemTime> {
        self.until
    }

    /// Whether labels are asked for.
    #[must_use]
    pub fn has_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Keeps the images that pass.
    ///
    /// # Errors
    /// Images of `since` and `before` that are not there.
    pub fn apply(&self, space: &Space, images: &mut Vec<ImageSummary>) -> Result<(), Error> {
        let created = |name: &String| -> Result<Option<Timestamp>, Error> {
            let reference = images::find(space, name)?;
            let image = images::summary(space.store(), &reference)?;
            Ok(time_of(&image))
        };
        let since: Vec<_> = self.since.iter().map(created).collect::<Result<_, _>>()?;
        let before: Vec<_> = self.before.iter().map(created).collect::<Result<_, _>>()?;
        let until = self.until.and_then(|time| Timestamp::try_from(time).ok());
        images.retain(|image| {
            let time = time_of(image);
            self.dangling
                .is_none_or(|wanted| image.name.is_empty() == wanted)
                && (self.references.is_empty() || self.is_named(image))
                && self.labels.iter().all(|label| has_label(image, label))
                && since.iter().all(|other| time > *other)
                && before.iter().all(|other| time < *other)
                && until.is_none_or(|until| time.is_none_or(|time| time < until))
        });
        Ok(())
    }

    /// A pattern names an image by its familiar name, with or without its tag; by the whole one if it names Docker Hub.
    fn is_named(&self, image: &ImageSummary) -> bool {
        if image.name.is_empty() {
            return false;
        }
        self.references.iter().any(|(pattern, whole)| {
            let name = if *whole {
                &image.name
            } else {
                super::archive::familiar(&image.name)
            };
            let (repository, _) = super::split_tag(name);
            pattern.matches(name.as_bytes()) || pattern.matches(repository.as_bytes())
        })
    }
}

fn time_of(image: &ImageSummary) -> Option<Timestamp> {
    image.created.as_deref()?.parse().ok()
}

fn has_label(image: &ImageSummary, (key, value, negated): &(String, Option<String>, bool)) -> bool {
    let found = image.labels.get(key);
    let has = found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found));
    has != *negated
}

/// A time: seconds since the epoch, RFC 3339 or a date, or how long ago as Go writes durations.
fn moment(text: &str, now: SystemTime) -> Option<SystemTime> {
    if let Some(ago) = duration(text) {
        return now.checked_sub(ago);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.into());
    }
    if let Ok(time) = text.parse::<jiff::civil::DateTime>() {
        let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        return Some(time.timestamp().into());
    }
    let seconds: f64 = text.parse().ok()?;
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// A duration such as `1h30m`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (unit, seconds) = [
            ("ms", 1e-3),
            ("us", 1e-6),
            ("ns", 1e-9),
            ("h", 3600.0),
            ("m", 60.0),
            ("s", 1.0),
        ]
        .into_iter()
        .find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> ImageSummary {
        ImageSummary {
            name: name.to_owned(),
            ..ImageSummary::default()
        }
    }

    #[test]
    fn patterns_match_familiar_names() {
        for (pattern, name, wanted) in [
            ("busybox", "docker.io/library/busybox:1", true),
            ("busybox:1", "docker.io/library/busybox:1", true),
            ("busybox:2", "docker.io/library/busybox:1", false),
            ("busy*", "docker.io/library/busybox:1", true),
            ("busy*:*", "docker.io/library/busybox:1", true),
            ("*", "docker.io/library/busybox:1", true),
            ("*", "docker.io/team/app:1", false),
            ("*/*/app", "docker.io/library/app:1", false),
            ("*/app", "docker.io/team/app:1", true),
            ("*/app", "r.example:5000/app:1", true),
            ("r.example:5000/*", "r.example:5000/app:1", true),
            ("r.example:5000/*", "r.example:5000/team/app:1", false),
            ("r.example:5000/*/*:v?", "r.example:5000/team/app:v1", true),
            (
                "docker.io/library/busybox",
                "docker.io/library/busybox:1",
                true,
            ),
            ("*", "", false),
        ] {
            let mut filters = ImageFilters::default();
            filters.reference(pattern).unwrap();
            assert_eq!(filters.is_named(&named(name)), wanted, "{pattern} {name}");
        }
        assert!(ImageFilters::default().reference("[").is_err());
    }

    #[test]
    fn times() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (text, wanted) in [
            ("1h30m", Some(1_000_000 - 5400)),
            ("10s", Some(999_990)),
            ("1970-01-02T00:00:00Z", Some(86_400)),
            ("1970-01-02", Some(86_400)),
            ("1970-01-02T00:01:00", Some(86_460)),
            ("777", Some(777)),
            ("", None),
            ("h", None),
            ("1x", None),
            ("-5", None),
            ("99999999999999999999h", None),
        ] {
            let wanted =
                wanted.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(moment(text, now), wanted, "{text}");
        }
    }

    #[test]
    fn filters_that_are_none() {
        for (filter, message) in [
            ("x=1", "invalid filter 'x'"),
            ("dangling=maybe", "invalid filter 'dangling=maybe'"),
            ("until=yesterday", "invalid filter 'until=yesterday'"),
            (
                "dangling",
                "bad format of filter (expected name=value): \"dangling\"",
            ),
        ] {
            let filters = [filter.to_owned()];
            let error = ImageFilters::parse(&filters, LIST_FILTERS, SystemTime::now()).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
