//! Named sections of a page in Markdown: what stands between a line `<!-- bench NAME -->` and a line `<!-- end of NAME -->`.
//! The files that keep results have them, and the page that shows them.

use std::ops::Range;

/// The line that begins a section.
fn first(name: &str) -> String {
    format!("<!-- bench {name} -->\n")
}

/// The line that ends it.
fn last(name: &str) -> String {
    format!("<!-- end of {name} -->")
}

fn place(text: &str, name: &str) -> Option<Range<usize>> {
    let first = first(name);
    let start = text.find(&first)? + first.len();
    let length = text.get(start..)?.find(&last(name))?;
    Some(start..start + length)
}

/// What a section holds.
pub fn get<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.get(place(text, name)?).map(str::trim)
}

/// The text with something else in a section; nothing where it has no such section.
pub fn replace(text: &str, name: &str, content: &str) -> Option<String> {
    let place = place(text, name)?;
    let (before, after) = (text.get(..place.start)?, text.get(place.end..)?);
    Some(format!("{before}\n{}\n\n{after}", content.trim()))
}

/// Adds a section at the end.
pub fn add(text: &mut String, name: &str, content: &str) {
    text.push_str(&first(name));
    text.push_str(&format!("\n{}\n\n{}\n", content.trim(), last(name)));
}

/// The names of all sections that end.
pub fn names(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("<!-- bench ")?.strip_suffix(" -->"))
        .filter(|name| place(text, name).is_some())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_found_and_replaced() {
        let mut text = "head\n".to_owned();
        add(&mut text, "w1", "| one |\n");
        add(&mut text, "w10", "ten");
        text.push_str("<!-- bench w2 -->\nnot ended\n");
        assert_eq!(names(&text), ["w1", "w10"]);
        assert_eq!(get(&text, "w1"), Some("| one |"));
        assert_eq!(get(&text, "w2"), None);
        let text = replace(&text, "w1", "\nother\n").unwrap();
        assert_eq!(get(&text, "w1"), Some("other"));
        assert_eq!(get(&text, "w10"), Some("ten"));
        assert_eq!(replace(&text, "w1", "other").as_ref(), Some(&text));
        assert_eq!(replace(&text, "w3", ""), None);
    }
}
