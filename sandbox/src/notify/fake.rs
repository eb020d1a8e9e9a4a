//! The supervisor of a run where there is a single id: commands change their ids and the owners of files as if there were
//! all ids, see what they asked for, and the owners are recorded.
//!
//! To the kernel everybody is the namespace's root, so that what one user may not do to another's files is not refused.
//! Only privileges are kept apart: who has given up user 0 can neither take it back nor give files away.

use super::calls::{self, At, Call, Form, Known, Side, Which};
use super::identity::Identities;
use super::ids::{self, Change, Credentials, KEEP};
use super::owners::{self, Owners};
use super::place::{Callers, Named};
use super::stat::{self, Statx};
use super::{Notification, Notifications, OVERFLOW_ID, Response, sys};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;
/// AT_NO_AUTOMOUNT, as the plain calls have it.
const NO_AUTOMOUNT: u32 = 0x800;

/// Answers the calls of one run.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(super) notifications: Notifications,
    pub(super) callers: Callers,
    pub(super) owners: Owners,
    identities: Identities,
}

/// How a call was answered: by us, by an error of ours, or (`Err(Pass)`) by the kernel.
pub(super) type Answer = Result<Response, Pass>;

/// The kernel carries the call out as it is, and finds the error that there may be.
#[derive(Debug)]
pub(super) struct Pass;

impl Supervisor {
    /// Over a listener, for a command of these ids.
    pub(crate) fn new(
        listener: OwnedFd,
        owners: Owners,
        (uid, gid, groups): (u32, u32, &[u32]),
    ) -> Result<Self, Errno> {
        Ok(Self {
            notifications: Notifications::new(listener)?,
            callers: Callers::new(),
            owners,
            identities: Identities::new(Credentials::of(uid, gid, groups)),
        })
    }

    /// What is to be polled.
    pub(super) fn notifications(&self) -> &Notifications {
        &self.notifications
    }

    /// Takes and answers one call. Must be polled before.
    pub(crate) fn serve(&mut self) -> Result<(), Errno> {
        let Some(call) = self.notifications.receive()? else {
            return Ok(());
        };
        let response = match calls::known(&call) {
            Some(known) if call.pid > 0 => self.answer(known, &call).unwrap_or(Response::Continue),
            _ => Response::Continue,
        };
        self.notifications.respond(&call, response)
    }

    /// Writes the records down for the capture.
    pub(crate) fn finish(&self) -> Result<(), Errno> {
        // As it was before calls were answered.
        rustix::process::umask(Mode::from_raw_mode(0o022));
        rustix::process::chdir("/")?;
        self.owners.save()
    }

    /// A process has ended.
    pub(crate) fn ended(&mut self) {
        self.callers.forget();
    }

    fn answer(&mut self, known: Known, call: &Notification) -> Answer {
        match known.call {
            Call::GetId(which) => self.id(known, call, which),
            Call::GetIds(side) => self.ids(known, call, side),
            Call::GetGroups => self.groups(known, call),
            Call::Set(side) => self.change(call, side, Change::One(id(known, call, 0))),
            Call::SetTwo(side) => {
                let two = Change::Two(id(known, call, 0), id(known, call, 1));
                self.change(call, side, two)
            }
            Call::SetThree(side) => {
                let three = [0, 1, 2].map(|index| id(known, call, index));
                self.change(call, side, Change::Three(three))
            }
            Call::SetFs(side) => self.change_fs(known, call, side),
            Call::SetGroups => self.set_groups(known, call),
            Call::Chown(at) => self.chown(known, call, at),
            Call::Stat(at, form) => self.stat(call, at, form),
            Call::Open(_)
            | Call::Create
            | Call::OpenHow
            | Call::MakeFolder(_)
            | Call::MakeNode(_)
            | Call::Symlink(_) => self.make(known.call, call),
            Call::Execute(at) => self.execute(call, at),
            Call::ChangeRoot => {
                self.callers.roots_differ = true;
                Err(Pass)
            }
            Call::SetTimerSlack => Ok(Response::Value(0)),
        }
    }

    // Identities.

    pub(super) fn credentials(&mut self, call: &Notification) -> Result<&Credentials, Pass> {
        let number = self.callers.number(call.pid).map_err(|_| Pass)?;
        Ok(self.identities.of(number))
    }

    fn id(&mut self, known: Known, call: &Notification, which: Which) -> Answer {
        let who = self.credentials(call)?;
        let id = match which {
            Which::Uid => who.user.real,
            Which::EffectiveUid => who.user.effective,
            Which::Gid => who.group.real,
            Which::EffectiveGid => who.group.effective,
        };
        Ok(Response::Value(shown(known, id).into()))
    }

    fn ids(&mut self, known: Known, call: &Notification, side: Side) -> Answer {
        let who = self.credentials(call)?;
        let ids = match side {
            Side::User => who.user,
            Side::Group => who.group,
        };
        for (index, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
            let bytes = encoded(known, &[id]);
            if let Err(errno) = self.notifications.write(call, call.args[index], &bytes) {
                return Ok(Response::Fail(errno));
            }
        }
        Ok(Response::Value(0))
    }

    fn groups(&mut self, known: Known, call: &Notification) -> Answer {
        let groups = self.credentials(call)?.groups.clone();
        let count = groups.len().try_into().unwrap_or(i64::MAX);
        match i64::from(call.int(0)) {
            0 => return Ok(Response::Value(count)),
            room if room < count => return Ok(Response::Fail(Errno::INVAL)),
            _ => {}
        }
        let bytes = encoded(known, &groups);
        if !bytes.is_empty()
            && let Err(errno) = self.notifications.write(call, call.args[1], &bytes)
        {
            return Ok(Response::Fail(errno));
        }
        Ok(Response::Value(count))
    }

    fn change(&mut self, call: &Notification, side: Side, change: Change) -> Answer {
        let who = self.credentials(call)?;
        let new = match side {
            Side::User => who.with_user(change),
            Side::Group => who.with_group(change),
        };
        match new {
            Ok(new) => self.become_one(call, new).map(|()| Response::Value(0)),
            Err(errno) => Ok(Response::Fail(errno)),
        }
    }

    fn change_fs(&mut self, known: Known, call: &Notification, side: Side) -> Answer {
        let change = Change::Fs(id(known, call, 0));
        let who = self.credentials(call)?;
        let (old, new) = match side {
            Side::User => (who.user.fs, who.with_user(change)),
            Side::Group => (who.group.fs, who.with_group(change)),
        };
        if let Ok(new) = new {
            self.become_one(call, new)?;
        }
        Ok(Response::Value(shown(known, old).into()))
    }

    fn set_groups(&mut self, known: Known, call: &Notification) -> Answer {
        let count = call.word(0) as usize;
        if !self.credentials(call)?.privileged() {
            return Ok(Response::Fail(Errno::PERM));
        }
        if count > ids::MOST_GROUPS {
            return Ok(Response::Fail(Errno::INVAL));
        }
        let width = if known.short { 2 } else { 4 };
        let mut bytes = vec![0; count * width];
        if count > 0
            && let Err(errno) = self.notifications.read(call, call.args[1], &mut bytes)
        {
            return Ok(Response::Fail(errno));
        }
        let groups = bytes
            .chunks_exact(width)
            .map(|bytes| match bytes {
                [low, high] => u16::from_ne_bytes([*low, *high]).into(),
                bytes => u32::from_ne_bytes(bytes.try_into().expect("BUG: four bytes")),
            })
            .collect();
        match self.credentials(call)?.with_groups(groups) {
            Ok(new) => self.become_one(call, new).map(|()| Response::Value(0)),
            Err(errno) => Ok(Response::Fail(errno)),
        }
    }

    fn become_one(&mut self, call: &Notification, new: Credentials) -> Result<(), Pass> {
        let number = self.callers.number(call.pid).map_err(|_| Pass)?;
        if *self.identities.of(number) == new {
            return Ok(());
        }
        if !self.notifications.is_still_valid(call) {
            return Err(Pass);
        }
        self.identities.set(number, new).map_err(|_| Pass)
    }

    /// A file that is set-user-id gives its recorded owner to whoever executes it.
    fn execute(&mut self, call: &Notification, at: At) -> Answer {
        let flags = if at == At::Folder { call.word(4) } else { 0 };
        let file = self.file(call, Named::usual(at, flags))?;
        let mode = rustix::fs::fstat(&file).map_err(|_| Pass)?.st_mode;
        let (mut owner, mut group) = (None, None);
        if mode & (S_ISUID | S_ISGID) != 0 && !is_script(&file) {
            let recorded = self.owners.of(file.as_fd()).unwrap_or((0, 0));
            owner = (mode & S_ISUID != 0).then_some(recorded.0);
            group = (mode & S_ISGID != 0 && mode & S_IXGRP != 0).then_some(recorded.1);
        }
        let new = self.credentials(call)?.executed(owner, group);
        self.become_one(call, new)?;
        Err(Pass)
    }

    // Files.

    fn file(&mut self, call: &Notification, named: Named) -> Result<OwnedFd, Pass> {
        self.callers
            .file(&self.notifications, call, named, ResolveFlags::empty())
            .map_err(|_| Pass)
    }

    fn chown(&mut self, known: Known, call: &Notification, at: At) -> Answer {
        let first = if at == At::Folder { 2 } else { 1 };
        let wanted = (id(known, call, first), id(known, call, first + 1));
        let flags = if at == At::Folder { call.word(4) } else { 0 };
        let file = self.file(call, Named::usual(at, flags))?;
        let now = self.owners.of(file.as_fd()).unwrap_or((0, 0));
        if !self.credentials(call)?.may_chown(now, wanted) {
            return Ok(Response::Fail(Errno::PERM));
        }
        if !self.notifications.is_still_valid(call) {
            return Err(Pass);
        }
        // The kernel does all that goes with it: the file is copied up, set-id bits and capabilities go, its time changes.
        let real = |id: u32| if id == KEEP { None } else { Some(0) };
        let (uid, gid) = (
            real(wanted.0).map(Uid::from_raw),
            real(wanted.1).map(Gid::from_raw),
        );
        if let Err(errno) = rustix::fs::chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH) {
            return Ok(Response::Fail(errno));
        }
        let carries = || {
            let kind = rustix::fs::fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode));
            matches!(kind, Ok(FileType::RegularFile | FileType::Directory))
        };
        let or = |id: u32, old: u32| if id == KEEP { old } else { id };
        let new = (or(wanted.0, now.0), or(wanted.1, now.1));
        // What carries no record may have come from a layer below with an owner: root's is written down then.
        if (new != now || !carries())
            && let Err(errno) = self.owners.set(file.as_fd(), new)
        {
            return Ok(Response::Fail(errno));
        }
        Ok(Response::Value(0))
    }

    /// Only a file with a recorded owner is told about by us.
    fn stat(&mut self, call: &Notification, at: At, form: Form) -> Answer {
        let (flags, mask, buffer) = match (form, at) {
            (Form::Statx, _) => (call.word(2), call.word(3), call.args[4]),
            (_, At::Folder) => (call.word(3), stat::BASIC, call.args[2]),
            _ => (0, stat::BASIC, call.args[1]),
        };
        let named = Named::usual(at, flags);
        let glance = self
            .callers
            .glance(&self.notifications, call, named)
            .map_err(|_| Pass)?;
        if glance.is_some_and(|(path, follow)| self.owners.none_at(&path, follow)) {
            return Err(Pass);
        }
        let file = self.file(call, named)?;
        let owner = self.owners.of(file.as_fd()).ok_or(Pass)?;
        let mut told = of_file(&file, flags | NO_AUTOMOUNT, mask)?;
        told.set_owner(owner);
        let bytes = told.as_form(form).ok_or(Pass)?;
        match self.notifications.write(call, buffer, &bytes) {
            Ok(()) => Ok(Response::Value(0)),
            Err(errno) => Ok(Response::Fail(errno)),
        }
    }

    /// The owner of a new file in a folder.
    pub(super) fn owner_of_new(
        &mut self,
        call: &Notification,
        folder: &OwnedFd,
    ) -> Result<(u32, u32), Pass> {
        let inherits = of_file(folder, 0, stat::BASIC)?.mode() & S_ISGID != 0;
        let group = if inherits {
            Some(self.owners.of(folder.as_fd()).unwrap_or((0, 0)).1)
        } else {
            None
        };
        let who = self.credentials(call)?;
        Ok((who.user.fs, group.unwrap_or(who.group.fs)))
    }
}

fn of_file(file: &OwnedFd, flags: u32, mask: u32) -> Result<Statx, Pass> {
    /// AT_SYMLINK_NOFOLLOW, which has been dealt with.
    const NOFOLLOW: u32 = 0x100;
    let stat = sys::statx(file.as_fd(), flags & !NOFOLLOW, mask);
    stat.map(Statx).map_err(|_| Pass)
}

/// An id among the arguments: the old calls have 16 bits, of which all ones are no id.
fn id(known: Known, call: &Notification, index: usize) -> u32 {
    let id = call.word(index);
    match id & 0xffff {
        0xffff if known.short => KEEP,
        low if known.short => low,
        _ => id,
    }
}

/// An id as the old calls show it, where it has no room.
fn shown(known: Known, id: u32) -> u32 {
    match u16::try_from(id) {
        Err(_) if known.short => OVERFLOW_ID.into(),
        _ => id,
    }
}

fn encoded(known: Known, ids: &[u32]) -> Vec<u8> {
    if !known.short {
        return ids.iter().flat_map(|id| id.to_ne_bytes()).collect();
    }
    let short = |id: &u32| u16::try_from(*id).unwrap_or(OVERFLOW_ID);
    ids.iter().map(short).flat_map(u16::to_ne_bytes).collect()
}

/// Whether the kernel would start an interpreter, which gets no ids of the file.
fn is_script(file: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(owners::link_to(file.as_fd()), flags, Mode::empty());
    let mut head = [0; 2];
    file.and_then(|file| rustix::io::read(&file, &mut head))
        .is_ok_and(|read| read == 2 && head == *b"#!")
}
