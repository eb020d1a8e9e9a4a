//! Resource limits of a command.

use crate::Limit;
use crate::fail::{Failure, Stage};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

const NAMES: [(&str, Resource); 15] = [
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// Sets the limits of this process.
pub(crate) fn set(limits: &[Limit]) -> Result<(), Failure> {
    for limit in limits {
        let stage = || {
            let shown = |number: Option<u64>| number.map_or("-1".to_owned(), |n| n.to_string());
            format!(
                "set the limit {}={}:{}",
                limit.name,
                shown(limit.soft),
                shown(limit.hard)
            )
        };
        let Some((_, resource)) = NAMES.iter().find(|(name, _)| *name == limit.name) else {
            return Err(Failure::new(stage(), Errno::INVAL));
        };
        let now = rustix::process::getrlimit(*resource);
        let wanted = Rlimit {
            current: limit.soft,
            maximum: limit.hard,
        };
        rustix::process::setrlimit(*resource, wanted)
            .stage_with(stage)
            .map_err(|failure| match (failure.errno(), now.maximum) {
                (Errno::PERM, Some(most)) => failure.detail(format!(
                    "it is above the hard limit of whoever runs the build, {most}, which only the host can raise"
                )),
                _ => failure,
            })?;
    }
    Ok(())
}
