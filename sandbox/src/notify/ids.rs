//! Identities that a command believes to have where there is a single id, and how it changes them: the rules of
//! credentials(7), with the capabilities that go with user 0. Pure; nothing of it reaches the kernel.

use rustix::io::Errno;

/// "No change" as an argument, which is no id.
pub(crate) const KEEP: u32 = u32::MAX;
/// Most supplementary groups (NGROUPS_MAX).
pub(super) const MOST_GROUPS: usize = 65_536;

/// Real, effective, saved and file system id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    pub(super) fs: u32,
}

impl Ids {
    fn all(id: u32) -> Self {
        Self {
            real: id,
            effective: id,
            saved: id,
            fs: id,
        }
    }

    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// setuid(2), setgid(2).
    fn set(self, id: u32, privileged: bool) -> Result<Self, Errno> {
        if id == KEEP {
            return Err(Errno::INVAL);
        }
        if privileged {
            return Ok(Self::all(id));
        }
        if id != self.real && id != self.saved {
            return Err(Errno::PERM);
        }
        Ok(Self {
            effective: id,
            fs: id,
            ..self
        })
    }

    /// setreuid(2), setregid(2).
    fn set_two(self, real: u32, effective: u32, privileged: bool) -> Result<Self, Errno> {
        let mut new = self;
        if real != KEEP {
            if !privileged && real != self.real && real != self.effective {
                return Err(Errno::PERM);
            }
            new.real = real;
        }
        if effective != KEEP {
            if !privileged && !self.has(effective) {
                return Err(Errno::PERM);
            }
            new.effective = effective;
        }
        if real != KEEP || (effective != KEEP && effective != self.real) {
            new.saved = new.effective;
        }
        new.fs = new.effective;
        Ok(new)
    }

    /// setresuid(2), setresgid(2).
    fn set_three(
        self,
        [real, effective, saved]: [u32; 3],
        privileged: bool,
    ) -> Result<Self, Errno> {
        let wanted = [real, effective, saved];
        if !privileged && wanted.iter().any(|id| *id != KEEP && !self.has(*id)) {
            return Err(Errno::PERM);
        }
        let or = |id: u32, old: u32| if id == KEEP { old } else { id };
        let effective = or(effective, self.effective);
        Ok(Self {
            real: or(real, self.real),
            effective,
            saved: or(saved, self.saved),
            fs: effective,
        })
    }

    /// setfsuid(2), setfsgid(2): never an error.
    fn set_fs(self, id: u32, privileged: bool) -> Self {
        if id != KEEP && (privileged || self.has(id) || id == self.fs) {
            Self { fs: id, ..self }
        } else {
            self
        }
    }

    /// What execve(2) does, with the owner of a set-id file.
    fn executed(self, owner: Option<u32>) -> Self {
        let effective = owner.unwrap_or(self.effective);
        Self {
            effective,
            saved: effective,
            fs: effective,
            ..self
        }
    }
}

/// Who a thread is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Credentials {
    pub(super) user: Ids,
    pub(super) group: Ids,
    pub(super) groups: Vec<u32>,
}

impl Credentials {
    /// Those of a user who has just logged in.
    pub(super) fn of(uid: u32, gid: u32, groups: &[u32]) -> Self {
        Self {
            user: Ids::all(uid),
            group: Ids::all(gid),
            groups: groups.to_vec(),
        }
    }

    /// Whether it has the capabilities of user 0.
    pub(super) fn privileged(&self) -> bool {
        self.user.effective == 0
    }

    fn in_group(&self, gid: u32) -> bool {
        self.group.fs == gid || self.groups.contains(&gid)
    }

    pub(super) fn with_user(&self, change: Change) -> Result<Self, Errno> {
        let user = self.changed(self.user, change)?;
        Ok(Self {
            user,
            ..self.clone()
        })
    }

    pub(super) fn with_group(&self, change: Change) -> Result<Self, Errno> {
        let group = self.changed(self.group, change)?;
        Ok(Self {
            group,
            ..self.clone()
        })
    }

    fn changed(&self, ids: Ids, change: Change) -> Result<Ids, Errno> {
        let privileged = self.privileged();
        match change {
            Change::One(id) => ids.set(id, privileged),
            Change::Two(real, effective) => ids.set_two(real, effective, privileged),
            Change::Three(wanted) => ids.set_three(wanted, privileged),
            Change::Fs(id) => Ok(ids.set_fs(id, privileged)),
        }
    }

    pub(super) fn with_groups(&self, groups: Vec<u32>) -> Result<Self, Errno> {
        if !self.privileged() {
            return Err(Errno::PERM);
        }
        if groups.len() > MOST_GROUPS || groups.contains(&KEEP) {
            return Err(Errno::INVAL);
        }
        Ok(Self {
            groups,
            ..self.clone()
        })
    }

    /// After execve(2) of a file, with the owner where it is set-user-id and the group where it is set-group-id.
    pub(super) fn executed(&self, owner: Option<u32>, group: Option<u32>) -> Self {
        Self {
            user: self.user.executed(owner),
            group: self.group.executed(group),
            groups: self.groups.clone(),
        }
    }

    /// Whether it may change the owner of a file (chown(2)).
    pub(super) fn may_chown(&self, (owner, group): (u32, u32), (uid, gid): (u32, u32)) -> bool {
        let same_user = uid == KEEP || (self.user.fs == owner && uid == owner);
        let own_group =
            gid == KEEP || (self.user.fs == owner && (gid == group || self.in_group(gid)));
        self.privileged() || (same_user && own_group)
    }
}

/// A change of a user's or a group's ids.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    One(u32),
    Two(u32, u32),
    Three([u32; 3]),
    Fs(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(real: u32, effective: u32, saved: u32, fs: u32) -> Ids {
        Ids {
            real,
            effective,
            saved,
            fs,
        }
    }

    #[test]
    fn changes_follow_the_kernels_rules() {
        let root = Credentials::default();
        let user = Credentials::of(1000, 1000, &[]);
        let left = Credentials {
            user: ids(0, 42, 0, 42),
            ..Credentials::default()
        };
        let cases = [
            (&root, Change::One(7), Ok(ids(7, 7, 7, 7))),
            (&root, Change::One(KEEP), Err(Errno::INVAL)),
            (&user, Change::One(1000), Ok(ids(1000, 1000, 1000, 1000))),
            (&user, Change::One(0), Err(Errno::PERM)),
            (&left, Change::One(0), Ok(ids(0, 0, 0, 0))),
            (&left, Change::One(42), Err(Errno::PERM)),
            (&root, Change::Two(KEEP, 42), Ok(ids(0, 42, 42, 42))),
            (&root, Change::Two(3, KEEP), Ok(ids(3, 0, 0, 0))),
            (&root, Change::Two(KEEP, 0), Ok(ids(0, 0, 0, 0))),
            (&user, Change::Two(0, KEEP), Err(Errno::PERM)),
            (&user, Change::Two(KEEP, 0), Err(Errno::PERM)),
            (&left, Change::Two(42, 0), Ok(ids(42, 0, 0, 0))),
            (&root, Change::Three([1, 2, 3]), Ok(ids(1, 2, 3, 2))),
            (&root, Change::Three([KEEP; 3]), Ok(ids(0, 0, 0, 0))),
            (&left, Change::Three([KEEP, 0, KEEP]), Ok(ids(0, 0, 0, 0))),
            (&user, Change::Three([KEEP, 0, KEEP]), Err(Errno::PERM)),
            (&root, Change::Fs(9), Ok(ids(0, 0, 0, 9))),
            (&user, Change::Fs(9), Ok(ids(1000, 1000, 1000, 1000))),
            (&root, Change::Fs(KEEP), Ok(ids(0, 0, 0, 0))),
        ];
        for (who, change, expected) in cases {
            let got = who.with_user(change).map(|new| new.user);
            assert_eq!(got, expected, "{change:?} of {:?}", who.user);
        }
    }

    #[test]
    fn groups_need_privileges() {
        let user = Credentials::of(1000, 1000, &[4]);
        assert_eq!(user.with_groups(vec![0]), Err(Errno::PERM));
        assert_eq!(
            user.with_group(Change::One(0)).map(|new| new.group),
            Err(Errno::PERM)
        );
        let root = Credentials::default();
        assert_eq!(root.with_groups(vec![7, 8]).unwrap().groups, [7, 8]);
        assert_eq!(root.with_groups(vec![KEEP]), Err(Errno::INVAL));
    }

    #[test]
    fn executing_a_set_id_file_gives_its_owner() {
        let user = Credentials::of(1000, 100, &[]);
        let sudo = user.executed(Some(0), None);
        assert_eq!(sudo.user, ids(1000, 0, 0, 0));
        assert!(sudo.privileged() && !user.privileged());
        assert_eq!(user.executed(None, Some(5)).group, ids(100, 5, 5, 5));
        let left = Credentials {
            user: ids(0, 42, 0, 42),
            ..Credentials::default()
        };
        assert_eq!(left.executed(None, None).user, ids(0, 42, 42, 42));
    }

    #[test]
    fn only_owners_give_files_to_groups_of_theirs() {
        let user = Credentials::of(1000, 1000, &[44]);
        let own = (1000, 1000);
        for (file, to, may) in [
            (own, (KEEP, KEEP), true),
            (own, (1000, KEEP), true),
            (own, (KEEP, 44), true),
            (own, (KEEP, 45), false),
            (own, (0, KEEP), false),
            ((0, 0), (KEEP, 1000), false),
            ((0, 0), (1000, KEEP), false),
        ] {
            assert_eq!(user.may_chown(file, to), may, "{file:?} to {to:?}");
            assert!(Credentials::default().may_chown(file, to));
        }
    }
}
