//! Tables for people: columns, ages, sizes.

use std::time::SystemTime;

/// Rows under headings, columns padded to their widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The text, three blanks between columns.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or_default()
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width - cell.chars().count() + 3));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `12.3MB`, powers of 1000 with three digits, as Docker shows sizes.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let mut value = bytes as f64;
    let mut unit = 0;
    // What three digits would round up to the next unit is of that unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if digits == 0 {
        &text
    } else {
        text.trim_end_matches('0').trim_end_matches('.')
    };
    format!("{text}{}", UNITS[unit])
}

/// `3 days ago` from an RFC 3339 time, in Docker's words; the text itself when it is none.
pub fn age(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else {
        return time.to_owned();
    };
    let Ok(now) = jiff::Timestamp::try_from(SystemTime::now()) else {
        return time.to_owned();
    };
    format!("{} ago", span(now.as_second() - then.as_second()))
}

/// How long ago that was.
pub fn since(time: SystemTime) -> String {
    let elapsed = SystemTime::now().duration_since(time).unwrap_or_default();
    let seconds = i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX / 2);
    format!("{} ago", span(seconds))
}

fn span(seconds: i64) -> String {
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    // Docker rounds hours to the nearest.
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..HOUR => format!("{} minutes", seconds / 60),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", seconds / DAY),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", seconds / DAY / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", seconds / DAY / 30),
        _ => format!("{} years", seconds / DAY / 365),
    }
}

/// `2026-01-02 03:04:05 +0000 UTC` from an RFC 3339 time, as Go prints times; the text itself when it is none.
pub fn moment(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        Err(_) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(vec!["xyz".into(), "1".into()]);
        assert_eq!(table.render(), "A     LONG\nxyz   1\n");
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (125, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (15 * 86_400, "2 weeks"),
            (61 * 86_400, "2 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
        assert_eq!(age("sometime"), "sometime");
        assert_eq!(
            moment("2026-01-02T03:04:05.6Z"),
            "2026-01-02 03:04:05 +0000 UTC"
        );
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0B"),
            (1_000, "1kB"),
            (4_000_000, "4MB"),
            (4_100_000, "4.1MB"),
            (100_000, "100kB"),
            (999_600, "1MB"),
            (9_996, "10kB"),
            (999, "999B"),
            (1_234, "1.23kB"),
            (12_345, "12.3kB"),
            (123_456_789, "123MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
