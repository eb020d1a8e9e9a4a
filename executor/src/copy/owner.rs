//! Users and groups by the account files of a root file system.

use super::UserIds;
use super::paths::refuse;
use crate::Error;
use crate::snapshot::View;

/// Longest `/etc/passwd` or `/etc/group` that is read.
const LIMIT: u64 = 16 << 20;

/// An owner: uid and gid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// The account files, read when a name asks for them.
struct Accounts<'a>(Option<&'a View>);

impl Accounts<'_> {
    fn text(&self, path: &[u8]) -> Result<String, Error> {
        let Some(view) = self.0 else {
            return Ok(String::new());
        };
        let bytes = view.read(path, LIMIT)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn users(&self) -> Result<Vec<Account>, Error> {
        let parse = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).unwrap_or_default().to_owned();
            Some(Account {
                name,
                uid,
                gid,
                home,
            })
        };
        Ok(self
            .text(b"etc/passwd")?
            .lines()
            .map(str::trim)
            .filter_map(parse)
            .collect())
    }

    fn groups(&self) -> Result<Vec<Group>, Error> {
        let parse = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields
                .next()
                .unwrap_or_default()
                .split(',')
                .map(str::to_owned)
                .collect();
            Some(Group { name, gid, members })
        };
        Ok(self
            .text(b"etc/group")?
            .lines()
            .map(str::trim)
            .filter_map(parse)
            .collect())
    }
}

fn user_and_group(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    }
}

/// What a process of this user runs as: the rules of OCI runtimes for `USER`.
pub(super) fn process_user(text: &str, view: &View) -> Result<UserIds, Error> {
    let (user, group) = user_and_group(text);
    let accounts = Accounts(Some(view));
    let number = user.parse::<u32>().ok();
    let matching = |account: &Account| {
        account.name == user || number == Some(account.uid) || (user.is_empty() && account.uid == 0)
    };
    let account = accounts.users()?.into_iter().find(matching);
    let mut ids = UserIds {
        home: "/".to_owned(),
        ..UserIds::default()
    };
    match (&account, number) {
        (Some(account), _) => {
            (ids.uid, ids.gid) = (account.uid, account.gid);
            if !account.home.is_empty() {
                ids.home.clone_from(&account.home);
            }
        }
        (None, Some(number)) => ids.uid = number,
        (None, None) if user.is_empty() => {}
        (None, None) => {
            return Err(refuse(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    }
    match group.filter(|group| !group.is_empty()) {
        Some(group) => {
            let number = group.parse::<u32>().ok();
            let found = accounts
                .groups()?
                .into_iter()
                .find(|known| known.name == group || number == Some(known.gid));
            ids.gid = match (found, number) {
                (Some(found), _) => found.gid,
                (None, Some(number)) => number,
                (None, None) => {
                    return Err(refuse(format!(
                        "unable to find group {group}: no matching entries in group file"
                    )));
                }
            };
        }
        None => {
            let name = account.as_ref().map(|account| account.name.as_str());
            let member = |group: &Group| {
                name.is_some_and(|name| group.members.iter().any(|member| member == name))
            };
            ids.groups = accounts
                .groups()?
                .into_iter()
                .filter(member)
                .map(|group| group.gid)
                .collect();
        }
    }
    // The own group is listed too, as BuildKit has it: a command that gives up its group keeps no access by accident.
    if !ids.groups.contains(&ids.gid) {
        ids.groups.insert(0, ids.gid);
    }
    Ok(ids)
}

/// The owner that `--chown` or a WORKDIR's user means: a number needs no account, and is the group too unless one is given.
/// A colon with nothing behind it means group 0. A group name that is not known leaves the group as it is, as BuildKit does. With `strict`, an unknown user is an error;
/// otherwise it is root.
pub(super) fn file_owner(text: &str, view: Option<&View>, strict: bool) -> Result<Owner, Error> {
    let (user, group) = user_and_group(text);
    let accounts = Accounts(view);
    let mut owner = Owner::default();
    if let Ok(number) = user.parse() {
        owner = Owner {
            uid: number,
            gid: number,
        };
    } else if !user.is_empty() {
        match accounts
            .users()?
            .into_iter()
            .find(|account| account.name == user)
        {
            Some(account) => {
                owner = Owner {
                    uid: account.uid,
                    gid: account.gid,
                }
            }
            None if strict => {
                let message =
                    format!("unable to find user {user}: no matching entries in passwd file");
                let help = Some("names are looked up in /etc/passwd of the image that is built; a number needs no entry".to_owned());
                return Err(Error::Copy { message, help });
            }
            None => {}
        }
    }
    if let Some(group) = group {
        if group.is_empty() {
            owner.gid = 0;
        } else if let Ok(number) = group.parse() {
            owner.gid = number;
        } else if let Some(found) = accounts
            .groups()?
            .into_iter()
            .find(|known| known.name == group)
        {
            owner.gid = found.gid;
        } else {
            tracing::warn!(
                "group {group} is not in /etc/group of the image: gid {} is used",
                owner.gid
            );
        }
    }
    Ok(owner)
}
