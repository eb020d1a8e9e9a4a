//! "Did you mean": the nearest of some names, at an edit distance below three.

/// The message with the nearest of `options` appended, unless `given` is among them or nothing is near.
pub(super) fn did_you_mean<'a>(
    message: String,
    given: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> String {
    match nearest(given, options) {
        Some(name) => format!("{message} (did you mean {name}?)"),
        None => message,
    }
}

/// The nearest name; `None` when `given` itself is among the options.
pub(super) fn nearest<'a>(
    given: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let mut best = None;
    let mut limit = 3;
    for option in options {
        let distance = edit_distance(given, option);
        if distance == 0 {
            return None;
        }
        if distance < limit {
            limit = distance;
            best = Some(option);
        }
    }
    best
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{edit_distance, nearest};

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "", 3),
            ("build", "biuld", 2),
            ("kitten", "sitting", 3),
            ("a", "b", 1),
        ] {
            assert_eq!(edit_distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_name_is_found() {
        assert_eq!(nearest("biuld", ["base", "build", "test"]), Some("build"));
        assert_eq!(nearest("unlike", ["base", "build"]), None);
        assert_eq!(nearest("build", ["build", "builds"]), None);
    }
}
