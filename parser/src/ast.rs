//! The typed Dockerfile: what the grammar found, unexpanded, with spans back into the file.
//!
//! Nothing here is evaluated: variables are still in the words, flags that hold
//! variables are still text. The planner expands and resolves.

use std::borrow::Cow;

/// A byte range in the text given to [`crate::parse`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A value and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written. When continuations cut the text, the span covers from first to last byte.
    pub span: Span,
}

/// One-based, inclusive line range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Lines {
    /// First line.
    pub start: u32,
    /// Last line.
    pub end: u32,
}

/// Parser directives at the head of the file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Directives {
    /// `# syntax=`.
    pub syntax: Option<Spanned<String>>,
    /// `# escape=`; a backslash unless set.
    pub escape: Option<Spanned<String>>,
    /// `# check=`, raw value.
    pub check: Option<Spanned<String>>,
}

/// A whole Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dockerfile {
    /// Parser directives.
    pub directives: Directives,
    /// The escape character in force: `\` or a backtick.
    pub escape: char,
    /// ARG instructions before the first FROM.
    pub global_args: Vec<Instruction>,
    /// Build stages in file order.
    pub stages: Vec<Stage>,
}

/// `FROM` and all that follows it up to the next one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// Base name, unexpanded.
    pub base: Spanned<String>,
    /// `--platform`, unexpanded.
    pub platform: Option<Spanned<String>>,
    /// `AS name` as written (compare without case).
    pub name: Option<Spanned<String>>,
    /// The FROM instruction itself: location, original text, comments.
    pub from: InstructionInfo,
    /// Instructions in order.
    pub instructions: Vec<Instruction>,
}

/// What every instruction carries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InstructionInfo {
    /// Keyword as typed (`run`, `RUN`).
    pub keyword: String,
    /// Where the keyword stands.
    pub keyword_span: Span,
    /// The whole instruction, heredoc bodies included.
    pub span: Span,
    /// Its lines.
    pub lines: Lines,
    /// The logical line: continuations joined, comments inside dropped (BuildKit's `Node.Original`).
    pub original: String,
    /// The comment block directly above, one entry per line, without `#` and the blanks around.
    pub comments: Vec<String>,
}

/// One instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Location and text.
    pub info: InstructionInfo,
    /// What it says.
    pub kind: Kind,
}

/// The instructions of the language, apart from FROM, which opens a [`Stage`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `ADD`.
    Add(Transfer),
    /// `ARG a=1 b`.
    Arg(Vec<ArgPair>),
    /// `CMD`.
    Cmd(CommandLine),
    /// `COPY`.
    Copy(Transfer),
    /// `ENTRYPOINT`.
    Entrypoint(CommandLine),
    /// `ENV`.
    Env(Vec<KeyValue>),
    /// `EXPOSE`, words unexpanded.
    Expose(Vec<Spanned<String>>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `LABEL`.
    Label(Vec<KeyValue>),
    /// `MAINTAINER`.
    Maintainer(Spanned<String>),
    /// `ONBUILD`: the trigger as BuildKit stores it in the config (text, heredocs included) and parsed.
    Onbuild {
        /// What goes into `config.OnBuild`.
        expression: String,
        /// The parsed trigger.
        trigger: Box<Instruction>,
    },
    /// `RUN`.
    Run(Run),
    /// `SHELL`, JSON form only.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    StopSignal(Spanned<String>),
    /// `USER`.
    User(Spanned<String>),
    /// `VOLUME`, words unexpanded.
    Volume(Vec<Spanned<String>>),
    /// `WORKDIR`.
    Workdir(Spanned<String>),
}

/// One `ARG` item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArgPair {
    /// Name, unexpanded.
    pub name: Spanned<String>,
    /// Default, unexpanded and still quoted; `None` when there is no `=`.
    pub default: Option<Spanned<String>>,
}

/// One `ENV` or `LABEL` item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    /// Key, unexpanded.
    pub key: Spanned<String>,
    /// Value, unexpanded and still quoted.
    pub value: Spanned<String>,
    /// Written as `ENV key rest of line`.
    pub legacy: bool,
}

/// `CMD`, `ENTRYPOINT` and the command part of RUN and HEALTHCHECK.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CommandLine {
    /// Exec form: the JSON strings. Shell form: one string, the text after the flags.
    pub args: Vec<String>,
    /// Whether it is the shell form.
    pub shell: bool,
}

/// `HEALTHCHECK`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK CMD`. Durations in nanoseconds, 0 where not given (inherit).
    Cmd {
        /// The command.
        command: CommandLine,
        /// `--interval`.
        interval: u64,
        /// `--timeout`.
        timeout: u64,
        /// `--start-period`.
        start_period: u64,
        /// `--start-interval`.
        start_interval: u64,
        /// `--retries`.
        retries: u32,
    },
}

/// A heredoc and its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heredoc {
    /// Terminator word after quote removal: also the file name of a COPY heredoc.
    pub name: String,
    /// File descriptor number before `<<`; 0 when not written.
    pub fd: u32,
    /// `<<-`: leading tabs are stripped where the body is used.
    pub chomp: bool,
    /// Unquoted terminator: the body is subject to expansion (by COPY/ADD, or by the shell).
    pub expand: bool,
    /// The raw body as in the file (tabs kept).
    pub content: String,
    /// Where the body stands.
    pub span: Span,
}

impl Heredoc {
    /// The body as it is used: without leading tabs if `<<-` was written.
    #[must_use]
    pub fn body(&self) -> Cow<'_, str> {
        if !self.chomp {
            return Cow::Borrowed(&self.content);
        }
        let lines = self
            .content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'));
        Cow::Owned(lines.collect())
    }
}

/// A source of COPY or ADD.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A path, wildcard or URL, unexpanded.
    Path(Spanned<String>),
    /// A heredoc.
    Heredoc(Heredoc),
}

/// `COPY` and `ADD`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Sources in order.
    pub sources: Vec<Source>,
    /// Destination, unexpanded.
    pub dest: Spanned<String>,
    /// `--from`.
    pub from: Option<Spanned<String>>,
    /// `--chown`, unexpanded.
    pub chown: Option<Spanned<String>>,
    /// `--chmod`, unexpanded.
    pub chmod: Option<Spanned<String>>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order, unexpanded.
    pub exclude: Vec<Spanned<String>>,
    /// `--checksum` (ADD).
    pub checksum: Option<Spanned<String>>,
    /// `--keep-git-dir` (ADD).
    pub keep_git_dir: Option<bool>,
    /// `--unpack` (ADD).
    pub unpack: Option<bool>,
}

/// `RUN`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// Heredocs in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount` values as written (CSV, unexpanded); see [`crate::mount::parse`].
    pub mounts: Vec<Spanned<String>>,
    /// `--network`.
    pub network: Option<Spanned<String>>,
    /// `--security`.
    pub security: Option<Spanned<String>>,
    /// `--device` values.
    pub devices: Vec<Spanned<String>>,
}
