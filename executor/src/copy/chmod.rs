//! `--chmod`: octal numbers and the symbolic modes of chmod(1), without a umask.

/// A parsed `--chmod`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Chmod {
    /// The bits themselves, 07777.
    Exact(u32),
    /// Changes in order.
    Changes(Vec<Change>),
}

/// One change of one clause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    user: bool,
    group: bool,
    other: bool,
    op: Op,
    bits: Bits,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bits {
    Named {
        rwx: u32,
        conditional_x: bool,
        set_id: bool,
        sticky: bool,
    },
    /// The bits that user (6), group (3) or other (0) have: the shift.
    CopyOf(u32),
}

impl Chmod {
    /// Parses; `None` when it is neither an octal number up to 07777 nor a symbolic mode.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .map(Self::Exact);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut changes)?;
        }
        Some(Self::Changes(changes))
    }

    /// Mode of directories that are made on the way to the destination.
    pub(super) fn made_directories(&self) -> u32 {
        match self {
            Self::Exact(mode) => mode & 0o777,
            Self::Changes(_) => 0o755,
        }
    }

    /// The mode of a copied entry.
    pub(super) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Exact(exact) => *exact,
            Self::Changes(changes) => changes
                .iter()
                .fold(mode, |mode, change| change.apply(mode, directory)),
        }
    }
}

fn parse_clause(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let who_end = clause.find(|c| !matches!(c, 'u' | 'g' | 'o' | 'a'))?;
    let (who, mut rest) = clause.split_at(who_end);
    let all = who.is_empty() || who.contains('a');
    while !rest.is_empty() {
        let op = match rest.as_bytes()[0] {
            b'+' => Op::Add,
            b'-' => Op::Remove,
            b'=' => Op::Set,
            _ => return None,
        };
        let end = rest[1..]
            .find(['+', '-', '='])
            .map_or(rest.len(), |end| end + 1);
        let bits = parse_bits(&rest[1..end])?;
        let (user, group, other) = (
            all || who.contains('u'),
            all || who.contains('g'),
            all || who.contains('o'),
        );
        changes.push(Change {
            user,
            group,
            other,
            op,
            bits,
        });
        rest = &rest[end..];
    }
    Some(())
}

fn parse_bits(text: &str) -> Option<Bits> {
    match text {
        "u" => return Some(Bits::CopyOf(6)),
        "g" => return Some(Bits::CopyOf(3)),
        "o" => return Some(Bits::CopyOf(0)),
        _ => {}
    }
    let (mut rwx, mut conditional_x, mut set_id, mut sticky) = (0, false, false, false);
    for letter in text.chars() {
        match letter {
            'r' => rwx |= 4,
            'w' => rwx |= 2,
            'x' => rwx |= 1,
            'X' => conditional_x = true,
            's' => set_id = true,
            't' => sticky = true,
            _ => return None,
        }
    }
    Some(Bits::Named {
        rwx,
        conditional_x,
        set_id,
        sticky,
    })
}

impl Change {
    fn apply(self, mode: u32, directory: bool) -> u32 {
        let (rwx, set_id, sticky) = match self.bits {
            Bits::CopyOf(shift) => (mode >> shift & 7, false, false),
            Bits::Named {
                rwx,
                conditional_x,
                set_id,
                sticky,
            } => {
                let x = u32::from(conditional_x && (directory || mode & 0o111 != 0));
                (rwx | x, set_id, sticky)
            }
        };
        let mut given = 0;
        let mut reach = 0;
        for (concerned, shift, special) in [
            (self.user, 6, 0o4000),
            (self.group, 3, 0o2000),
            (self.other, 0, 0),
        ] {
            if concerned {
                given |= rwx << shift | if set_id { special } else { 0 };
                reach |= 7 << shift | special;
            }
        }
        if sticky {
            given |= 0o1000;
        }
        if self.user && self.group && self.other {
            reach |= 0o1000;
        }
        match self.op {
            Op::Add => mode | given,
            Op::Remove => mode & !given,
            Op::Set => mode & !reach | given,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Chmod;

    #[test]
    fn modes() {
        let cases: &[(&str, u32, bool, u32)] = &[
            ("0644", 0o755, false, 0o644),
            ("4755", 0o644, true, 0o4755),
            ("0", 0o644, false, 0),
            ("+x", 0o600, false, 0o711),
            ("+x", 0o640, false, 0o751),
            ("u+s", 0o644, false, 0o4644),
            ("g+s", 0o755, true, 0o2755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("g=u", 0o740, false, 0o770),
            ("o=g", 0o751, false, 0o755),
            ("a-w", 0o777, false, 0o555),
            ("a=r", 0o4755, false, 0o444),
            ("u-x+w", 0o755, false, 0o655),
            ("go=", 0o777, false, 0o700),
            ("+t", 0o755, true, 0o1755),
            ("ug=rw,o=", 0o777, false, 0o660),
            ("=", 0o777, false, 0),
        ];
        for &(text, mode, directory, expected) in cases {
            let found = Chmod::parse(text).unwrap().apply(mode, directory);
            assert_eq!(found, expected, "{text} on {mode:o}: {found:o}");
        }
    }

    #[test]
    fn bad_modes() {
        for text in [
            "", "8", "07778", "10000", "u", "u+q", "z+x", "u+x,", "+x,,+r", "rwx", "u=ug", "-1",
        ] {
            let parsed = Chmod::parse(text);
            assert!(parsed.is_none(), "{text}: {parsed:?}");
        }
    }

    #[test]
    fn made_directories() {
        assert_eq!(Chmod::parse("4770").unwrap().made_directories(), 0o770);
        assert_eq!(Chmod::parse("u=rw").unwrap().made_directories(), 0o755);
    }
}
