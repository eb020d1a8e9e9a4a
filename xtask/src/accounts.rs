//! Accounts of ordinary users, with and without ranges of ids, made for a run and removed after it. Needs root.

use crate::shell;
use std::process::Command;

/// A user that is removed in the end.
pub struct User {
    /// Name of the account.
    pub name: &'static str,
    /// Of the user, and of the group of the same name.
    pub id: String,
}

impl User {
    /// Makes the user anew; `true` is with ranges.
    pub fn new((name, ranges): (&'static str, bool)) -> Result<Self, String> {
        let _ = shell::output(Command::new("userdel").arg(name));
        let mut command = Command::new("useradd");
        command.args(["--no-create-home", "--shell", "/bin/sh"]);
        if !ranges {
            command.arg("--system");
        }
        shell::output(command.arg(name))?;
        let id = shell::output(Command::new("id").args(["-u", name]))?;
        Ok(Self {
            name,
            id: id.trim().to_owned(),
        })
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = shell::output(Command::new("userdel").arg(self.name));
    }
}
