//! Accounts of ordinary users that tests become: made for a test, removed after it.

use std::fs;
use std::process::Command;
use std::time::Duration;

/// A user that is removed in the end.
#[derive(Debug)]
pub struct User {
    /// Name of the account.
    pub name: &'static str,
    /// Of the user, and of the group of the same name.
    pub id: u32,
}

impl User {
    /// Makes the user anew, with ranges of subordinate ids or without; `None` where the tools are missing, or the machine
    /// gives no ranges. A test has names of its own.
    pub fn new(name: &'static str, ranges: bool) -> Option<Self> {
        let _ = quiet("userdel", &[name]);
        let kind: &[&str] = if ranges { &[] } else { &["--system"] };
        let args = [kind, &["--no-create-home", "--shell", "/bin/sh", name]].concat();
        // Another program may hold the lock of the user list for a moment.
        let made = patiently(|| quiet("useradd", &args));
        let id = Command::new("id").args(["-u", name]).output().ok()?.stdout;
        let id = String::from_utf8(id).ok()?.trim().parse().ok()?;
        let user = made.then_some(Self { name, id })?;
        (user.has_ranges() == ranges).then_some(user)
    }

    /// Whether `/etc/subuid` has something for it.
    pub fn has_ranges(&self) -> bool {
        let text = fs::read_to_string("/etc/subuid").unwrap_or_default();
        let entry = format!("{}:", self.name);
        text.lines().any(|line| line.starts_with(&entry))
    }

    /// `setpriv` and its flags, before a command that this user shall run.
    pub fn prefix(&self) -> Vec<String> {
        let words = [
            "/usr/bin/setpriv",
            "--reuid",
            &self.id.to_string(),
            "--regid",
            &self.id.to_string(),
            "--clear-groups",
        ];
        words.map(str::to_owned).to_vec()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = patiently(|| quiet("userdel", &[self.name]));
    }
}

/// Tries for some seconds.
fn patiently(mut attempt: impl FnMut() -> bool) -> bool {
    (0..50).any(|_| {
        let done = attempt();
        if !done {
            std::thread::sleep(Duration::from_millis(100));
        }
        done
    })
}

/// Whether a tool succeeds; what it says is of no interest.
pub fn quiet(tool: &str, args: &[&str]) -> bool {
    let output = Command::new(tool).args(args).output();
    output.is_ok_and(|output| output.status.success())
}
