//! Near names for typos.

/// Distances from here on are no typo.
const LIMIT: usize = 3;

/// The nearest option, `None` if none is near or one is equal.
#[must_use]
pub fn nearest<'o>(word: &str, options: &[&'o str]) -> Option<&'o str> {
    let mut best = None;
    let mut limit = LIMIT;
    for option in options {
        if *option == word {
            return None;
        }
        let distance = distance(word, option, limit);
        if distance < limit {
            limit = distance;
            best = Some(*option);
        }
    }
    best
}

/// As [`nearest`] without regard to case; the result has the case of the word if that is uniform.
#[must_use]
pub fn nearest_any_case(word: &str, options: &[&str]) -> Option<String> {
    let lower: Vec<String> = options.iter().map(|option| option.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let found = nearest(&word.to_lowercase(), &lower)?;
    Some(if word == word.to_lowercase() {
        found.to_owned()
    } else {
        found.to_uppercase()
    })
}

/// Edit distance by characters, or `limit` if it is at least that.
fn distance(left: &str, right: &str, limit: usize) -> usize {
    let right: Vec<char> = right.chars().collect();
    if left.chars().count().abs_diff(right.len()) >= limit {
        return limit;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = line;
        row[0] = line + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()].min(limit)
}
