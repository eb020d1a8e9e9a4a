//! COPY and ADD instructions.

use super::dockerfile::Generator;
use super::words;

const HEREDOCS: &[&str] = &[
    "COPY <<EOF /here\nhello $A ${B:-b} \\$C\nEOF",
    "COPY <<\"EOF\" /here-q\nhello $A\nEOF",
    "COPY <<-EOF /here-t\n\ttabs\n\t\ttwo\n\tEOF",
    "COPY <<one.txt <<two.txt /heres/\n1\none.txt\n2\ntwo.txt",
    "COPY a.txt <<mixed.txt /heres/\nmixed\nmixed.txt",
    "COPY --chmod=750 --chown=5:6 <<EOF /own/here\nowned\nEOF",
    "ADD <<EOF /added\nadded\nEOF",
    "COPY <<EOF /empty-here\nEOF",
    "COPY --link <<EOF /linked/here\nlink\nEOF",
    "COPY <<EOF data\nrelative\nEOF",
    "COPY <<EOF /lnk/\nthrough a link\nEOF",
    "COPY <<EOF <<EOF /same/\nfirst\nEOF\nsecond\nEOF",
    "COPY --chmod=u+x <<run.sh /scripts/\n#!/bin/sh\necho $A\nrun.sh",
];

impl Generator<'_> {
    /// COPY or ADD from the context, a stage, an image or a heredoc.
    pub fn copy(&mut self) -> String {
        match self.random.below(100) {
            0..10 => {
                let heredoc = self.random.pick(HEREDOCS);
                heredoc.to_owned()
            }
            10..35 => self.copy_from(),
            35..55 => self.add_archive(),
            _ => self.copy_context(),
        }
    }

    fn copy_context(&mut self) -> String {
        let paths = self.context.paths();
        let (source, is_path) = match self.random.below(100) {
            0..45 => (self.random.pick(&paths), true),
            45..96 => (self.random.pick(words::PATTERNS), false),
            _ => (self.random.pick(words::DOUBTFUL), false),
        };
        let verb = if self.random.chance(75) {
            "COPY"
        } else {
            "ADD"
        };
        let flags = self.copy_flags();
        let target = self.destination(is_path);
        self.assemble(verb, &flags, source, target, is_path)
    }

    fn copy_from(&mut self) -> String {
        let (from, knows_base) = self.source_stage();
        let source = if knows_base {
            self.random
                .pick_or(words::OTHERS, 6, words::OTHERS_DOUBTFUL)
        } else {
            self.random.pick_or(&["/", ".", "*"], 6, words::OTHERS)
        };
        let flags = format!("--from={from} {}", self.copy_flags());
        let target = self.destination(true);
        self.assemble("COPY", &flags, source, target, false)
    }

    fn add_archive(&mut self) -> String {
        let archives = self.context.archives();
        let source = self.random.pick(&archives);
        let unpack = match self.random.below(10) {
            0 => "--unpack=false ",
            1 => "--unpack ",
            _ => "",
        };
        let flags = format!("{unpack}{}", self.copy_flags());
        let target = self.destination(true);
        self.assemble("ADD", &flags, source, target, true)
    }

    fn destination(&mut self, single: bool) -> &'static str {
        if self.random.chance(2) {
            return self.random.pick(words::BAD_DESTS);
        }
        let percent = if single { 35 } else { 10 };
        self.random.pick_or(words::DESTS, percent, words::SINGLE)
    }

    fn copy_flags(&mut self) -> String {
        let mut flags = Vec::new();
        let is_linked = self.random.chance(18);
        if self.random.chance(20) {
            // BuildKit looks up no names for independent layers.
            let rare = if is_linked { 4 } else { 75 };
            let owner = self
                .random
                .pick_or(&["0:0", "1000", "5:6"], rare, words::OWNERS);
            flags.push(format!("--chown={owner}"));
        }
        if self.random.chance(20) {
            flags.push(format!("--chmod={}", self.random.pick(words::MODES)));
        }
        if is_linked {
            let link = self.random.pick(&["--link", "--link=true", "--link=false"]);
            flags.push(link.to_owned());
        }
        while self.random.chance(15) {
            flags.push(format!("--exclude={}", self.random.pick(words::EXCLUDES)));
        }
        flags.join(" ")
    }

    /// Writes the instruction in words or, where a name needs it, in JSON.
    fn assemble(
        &mut self,
        verb: &str,
        flags: &str,
        source: &str,
        target: &str,
        is_path: bool,
    ) -> String {
        let space = if flags.is_empty() { "" } else { " " };
        let odd = is_path && source.contains([' ', '"', '\\', '\n', '$', '#']);
        let target = if target.is_empty() { "\"\"" } else { target };
        if odd || source.is_empty() || self.random.chance(12) {
            let source = if is_path {
                escaped(source)
            } else {
                source.to_owned()
            };
            let mut sources: Vec<&str> = if is_path {
                vec![&source]
            } else {
                source.split(' ').collect()
            };
            sources.push(target.trim_matches('"'));
            let quoted: Vec<String> = sources.iter().map(|word| format!("{word:?}")).collect();
            let mut json = format!("[{}]", quoted.join(", "));
            // Rust's notation of odd characters is not JSON's.
            json = json.replace("\\u{7f}", "\\u007f").replace("\\'", "'");
            return format!("{verb} {flags}{space}{json}");
        }
        let source = if is_path {
            escaped(source)
        } else {
            source.to_owned()
        };
        format!("{verb} {flags}{space}{source} {target}")
    }
}

/// The pattern that means just this name.
fn escaped(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        match c {
            '[' => text.push_str("[[]"),
            '*' | '?' | '\\' | '$' => {
                text.push('\\');
                text.push(c);
            }
            _ => text.push(c),
        }
    }
    text
}
