//! Makes a case of a seed: stages, instructions, build arguments, and how the text is dressed (comments, continuations, case).

use super::context::Context;
use super::random::Random;
use super::{base, words, wrong};

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// The Dockerfile.
    pub dockerfile: String,
    /// More arguments of both builders.
    pub args: Vec<String>,
    /// The context folder.
    pub context: Context,
}

/// A stage as later ones can name it.
#[derive(Debug, Clone)]
struct Stage {
    name: Option<String>,
    has_base: bool,
}

/// What a case is made with.
#[allow(missing_debug_implementations, reason = "a function has no debug form")]
pub struct Generator<'a> {
    pub(super) random: Random,
    pub(super) context: Context,
    pub(super) is_root: bool,
    address: &'a dyn Fn(&str) -> String,
    id: String,
    lines: Vec<String>,
    stages: Vec<Stage>,
    escape: char,
}

impl Case {
    /// Makes the case `number` of a seed; `address` gives the address of a base image.
    pub fn generate(seed: u64, number: u64, address: &dyn Fn(&str) -> String) -> Self {
        let mut random = Random::new(seed, number);
        let context = Context::choose(&mut random);
        let mut generator = Generator {
            random,
            context,
            is_root: true,
            address,
            id: format!("s{seed}c{number}"),
            lines: Vec::new(),
            stages: Vec::new(),
            escape: '\\',
        };
        let dockerfile = generator.file();
        let args = generator.arguments();
        Self {
            dockerfile,
            args,
            context: generator.context,
        }
    }
}

impl Generator<'_> {
    fn file(&mut self) -> String {
        if self.random.chance(8) {
            let file = self.random.pick(wrong::FILES);
            return self.filled(file);
        }
        if self.random.chance(6) {
            self.escape = '`';
            self.lines.push("# escape=`".to_owned());
        }
        if self.random.chance(15) {
            let line =
                self.random
                    .pick(&["ARG A=global", "ARG G=plain", "# a comment", "ARG B", ""]);
            self.lines.push(line.to_owned());
        }
        let stages = 1 + self.random.pick(&[0, 0, 0, 1, 1, 2]);
        for number in 0..stages {
            self.stage(number, number + 1 == stages);
        }
        if self.random.chance(15) {
            let line = self.random.pick(wrong::WRONG);
            let at = 1 + self.random.below(self.lines.len());
            let line = self.filled(line);
            self.lines.insert(at, line);
        }
        let text = self.lines.join("\n");
        if self.random.chance(10) {
            text
        } else {
            text + "\n"
        }
    }

    /// One stage: FROM, what the rest names, then a few instructions.
    fn stage(&mut self, number: usize, is_last: bool) {
        let (from, has_base) = self.from(number);
        let name = (!is_last || self.random.chance(20)).then(|| format!("s{number}"));
        let keyword = self.random.pick(&["AS", "AS", "as"]);
        self.lines.push(match &name {
            Some(name) => format!("FROM {from} {keyword} {name}"),
            None => format!("FROM {from}"),
        });
        self.is_root = !from.ends_with(":user") && !from.ends_with(":onb2");
        if self.random.chance(60) {
            let setup = self.random.pick(&[
                "ARG A",
                "ARG A=stage",
                "ENV B=\"b value\" C='c c'",
                "ENV E=k=v D=/dvar U=app P=\"80 81/udp\" M=u=rwX",
                "ARG D=/darg U=5:6 M=0711 P=90",
            ]);
            self.lines.push(setup.to_owned());
        }
        let count = if is_last {
            2 + self.random.below(6)
        } else {
            1 + self.random.below(3)
        };
        for _ in 0..count {
            let line = self.instruction(has_base);
            self.dress(line);
        }
        self.stages.push(Stage { name, has_base });
    }

    fn from(&mut self, number: usize) -> (String, bool) {
        if number > 0 && self.random.chance(50) {
            let at = number - 1 - self.random.below(number.min(2));
            let stage = self.stages[at].clone();
            if let Some(name) = stage.name {
                return (name, stage.has_base);
            }
        }
        if self.random.chance(10) {
            return ("scratch".to_owned(), false);
        }
        let variant = self.random.pick_or(&["plain"], 35, base::VARIANTS);
        ((self.address)(variant), true)
    }

    fn instruction(&mut self, has_base: bool) -> String {
        match self.random.below(100) {
            0..38 => self.copy(),
            38..66 if has_base => self.run(),
            38..72 => {
                let line = self.random.pick_or(words::WORKDIRS, 4, words::BAD_WORKDIRS);
                format!("WORKDIR {line}")
            }
            72..76 if has_base => {
                let user = self.random.pick(words::USERS);
                self.is_root = matches!(user, "root" | "0:0");
                format!("USER {user}")
            }
            _ => {
                let line = self.random.pick(words::META);
                self.filled(line)
            }
        }
    }

    /// A stage or image to copy from, and whether the base's files are in it.
    pub(super) fn source_stage(&mut self) -> (String, bool) {
        if self.stages.is_empty() || self.random.chance(25) {
            return ((self.address)("plain"), true);
        }
        let at = self.random.below(self.stages.len());
        let stage = self.stages[at].clone();
        let name = match stage.name {
            Some(name) if self.random.chance(70) => name,
            Some(name) if self.random.chance(30) => name.to_uppercase(),
            _ => at.to_string(),
        };
        (name, stage.has_base)
    }

    /// A template with its places filled: `{n}` a name, `{v}` a value, `{k}` a number, `{id}` the case, `{base}` an image.
    pub(super) fn filled(&mut self, template: &str) -> String {
        let mut text = template.to_owned();
        while text.contains("{n}") {
            text = text.replacen("{n}", self.random.pick(words::NAMES), 1);
        }
        while text.contains("{v}") {
            text = text.replacen("{v}", self.random.pick(words::VALUES), 1);
        }
        let number = self.random.below(4).to_string();
        text.replace("{k}", &number)
            .replace("{id}", &self.id)
            .replace("{base}", &(self.address)("plain"))
    }

    /// Adds a line, sometimes with comments, blank lines, other case or continuations.
    fn dress(&mut self, line: String) {
        if self.random.chance(5) {
            let between = self.random.pick(&["# between", "", "   # indented", "\t"]);
            self.lines.push(between.to_owned());
        }
        let mut line = line;
        if self.random.chance(4)
            && let Some((verb, rest)) = line.split_once(' ')
        {
            line = format!("{} {rest}", verb.to_lowercase());
        }
        let spaces: Vec<usize> = line.match_indices(' ').map(|(at, _)| at).collect();
        if self.random.chance(8) && !line.contains('\n') && !spaces.is_empty() {
            let at = self.random.pick(&spaces);
            let middle = self.random.pick(&["", "", "  # in between\n", "\n", "   "]);
            line = format!(
                "{} {}\n{middle}{}",
                &line[..at],
                self.escape,
                &line[at + 1..]
            );
        }
        if self.random.chance(4) {
            line = format!("  {line}");
        }
        self.lines.push(line);
    }

    fn arguments(&mut self) -> Vec<String> {
        let mut args = Vec::new();
        let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
        if self.random.chance(25) {
            let value = self.random.pick(&[
                "A=cli",
                "A=",
                "B=cli b",
                "D=/cli",
                "HTTP_PROXY=http://127.0.0.1:1",
                "NOSUCH=1",
                "A=$B",
            ]);
            add("--build-arg", value.to_owned());
        }
        if self.random.chance(8) {
            let value = self
                .random
                .pick(&["l1=cli", "cli=label with space", "base="]);
            add("--label", value.to_owned());
        }
        if self.random.chance(6) && self.stages.len() > 1 {
            add("--target", "s0".to_owned());
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::Case;

    fn texts(seed: u64) -> Vec<(String, Vec<String>)> {
        (0..50)
            .map(|number| Case::generate(seed, number, &|variant| format!("base:{variant}")))
            .map(|case| (case.dockerfile, case.args))
            .collect()
    }

    #[test]
    fn cases_depend_on_seed_and_number_alone() {
        assert_eq!(texts(7), texts(7));
        let (one, other) = (texts(7), texts(8));
        let common = one.iter().filter(|case| other.contains(case)).count();
        assert!(common < 10, "{common} cases of two seeds are the same");
    }

    #[test]
    fn no_place_of_a_template_stays_empty() {
        for (text, _) in texts(1).iter().chain(&texts(2)) {
            for place in ["{n}", "{v}", "{k}", "{id}", "{base}"] {
                assert!(!text.contains(place), "{text}");
            }
        }
    }
}
