//! The instruction names.

/// An instruction name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
}

/// Names as they are written, with what they mean.
const NAMES: [(&str, Keyword); 18] = [
    ("RUN", Keyword::Run),
    ("COPY", Keyword::Copy),
    ("ENV", Keyword::Env),
    ("ARG", Keyword::Arg),
    ("FROM", Keyword::From),
    ("LABEL", Keyword::Label),
    ("WORKDIR", Keyword::Workdir),
    ("ADD", Keyword::Add),
    ("CMD", Keyword::Cmd),
    ("ENTRYPOINT", Keyword::Entrypoint),
    ("EXPOSE", Keyword::Expose),
    ("HEALTHCHECK", Keyword::Healthcheck),
    ("MAINTAINER", Keyword::Maintainer),
    ("ONBUILD", Keyword::Onbuild),
    ("SHELL", Keyword::Shell),
    ("STOPSIGNAL", Keyword::StopSignal),
    ("USER", Keyword::User),
    ("VOLUME", Keyword::Volume),
];

impl Keyword {
    /// Reads a name in any case.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word))
            .map(|(_, keyword)| *keyword)
    }

    /// The name in capitals.
    pub(crate) fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(_, keyword)| *keyword == self)
            .map_or("", |(name, _)| name)
    }

    /// All names.
    pub(crate) fn names() -> Vec<&'static str> {
        NAMES.iter().map(|(name, _)| *name).collect()
    }
}
