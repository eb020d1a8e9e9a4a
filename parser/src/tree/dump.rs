//! Dumps a raw tree as lists: `(run "echo hi")`.

use super::{Node, Tree};
use crate::quote::quote;
use std::fmt::Write as _;

impl Tree {
    /// All instructions as lists, one a line.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut out = String::new();
        for node in &self.nodes {
            let _ = writeln!(out, "({})", node.dump());
        }
        out
    }
}

impl Node {
    /// The instruction as a list, without the parentheses around it.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut out = self.keyword.to_lowercase();
        if !self.flags.is_empty() {
            let flags: Vec<String> = self.flags.iter().map(|flag| quote(&flag.value)).collect();
            let _ = write!(out, " [{}]", flags.join(" "));
        }
        if let Some(trigger) = &self.trigger {
            let _ = write!(out, " ({})", trigger.dump());
        }
        for arg in &self.args {
            let _ = write!(out, " {}", quote(&arg.value));
        }
        out.trim().to_owned()
    }
}
