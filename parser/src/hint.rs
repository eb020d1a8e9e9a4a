//! What to do about a finding that does not say so itself, by its message.
//!
//! Findings that know more (a near name, the words meant) bring their own hint; this is the rest.

/// The hint for a message, `None` where the message says it all.
///
/// Rows are tried in order: a message may hold another, as errors of expansion do.
#[must_use]
pub fn of(message: &str) -> Option<&'static str> {
    HINTS
        .iter()
        .find(|(part, _)| message.contains(part))
        .map(|(_, hint)| *hint)
}

/// Parts of messages, and what to do.
const HINTS: [(&str, &str); 85] = [
    // Words.
    ("looking for matching", "close the quote, or escape it"),
    ("missing '}'", "close the brace: ${NAME}"),
    ("missing '/' in ${}", "write ${NAME/pattern/replacement}"),
    ("bad substitution", "write ${NAME} or ${NAME:-value}"),
    (
        "unsupported modifier",
        "operators are :- - :+ + :? ? # ## % %% / and //",
    ),
    (
        "invalid pattern (",
        "patterns have * and ?, a backslash takes their meaning",
    ),
    (
        "is not allowed to be",
        "declare it with ARG and give it with --build-arg",
    ),
    (
        "nested too deeply",
        "take the substitution apart with ARG or ENV",
    ),
    // Lines and directives.
    (
        "max allowed size of",
        "break the line with a continuation, or put the data into a file and COPY it",
    ),
    ("cannot be empty", "a Dockerfile begins with FROM"),
    (
        "unterminated heredoc",
        "the name alone on a line ends a heredoc",
    ),
    (
        "unknown instruction",
        "a line begins with an instruction such as FROM, RUN, COPY, ENV or CMD",
    ),
    ("no stages to build", "a Dockerfile needs a FROM"),
    // Flags.
    ("duplicate flag specified", "leave one of them"),
    (
        "missing a value on flag",
        "write --name=value without a blank",
    ),
    ("expecting boolean value", "the value is true or false"),
    ("arg should start with --", "flags are --name=value"),
    // Arguments.
    (
        "names can not be blank",
        "write NAME=value: the name is missing",
    ),
    (
        "requires at least one argument",
        "write what the instruction is to do behind its name",
    ),
    (
        "requires exactly one argument",
        "write one argument behind its name",
    ),
    (
        "cannot accept a heredoc as",
        "heredocs are sources; the last word is where they go",
    ),
    (
        "arrays must be comprised of strings",
        "put every element in double quotes",
    ),
    (
        "VOLUME specified can not be an empty",
        "a volume is a path; check that its variables have a value",
    ),
    (
        "HEALTHCHECK NONE takes no",
        "leave the rest of the line out",
    ),
    (
        "in HEALTHCHECK (try CMD)",
        "write HEALTHCHECK CMD command, or HEALTHCHECK NONE",
    ),
    (
        "Missing command after HEALTHCHECK",
        "write the command behind CMD",
    ),
    (
        "cannot be less than 1ms",
        "0 means the default; other durations are 1ms or more",
    ),
    ("--retries cannot be negative", "0 means the default"),
    ("arguments are required", "write the command to run"),
    // ONBUILD.
    (
        "Chaining ONBUILD",
        "write the instruction itself behind ONBUILD",
    ),
    (
        "isn't allowed as an ONBUILD trigger",
        "put it into the Dockerfile that is based on this image",
    ),
    (
        "onbuild trigger should be a single",
        "each ONBUILD has one instruction",
    ),
    // Stages.
    (
        "invalid name for build stage",
        "a name begins with a letter, then letters, digits, '-', '_' and '.'",
    ),
    (
        "base name (",
        "give the variable a default: ARG NAME=value before the first FROM",
    ),
    (
        "empty platform value",
        "declare the variable with ARG before the first FROM, or give --platform",
    ),
    (
        "failed to parse platform",
        "platforms are such as linux/amd64 or linux/arm/v7",
    ),
    (
        "failed to process arguments for platform",
        "only ARGs from before the first FROM count here",
    ),
    (
        "circular dependency",
        "a stage cannot read from itself or from one that needs it",
    ),
    (
        "it needs to be defined before current",
        "move that stage above this one",
    ),
    (
        "stage needs to be defined before",
        "move that stage above this one",
    ),
    (
        "invalid stage index",
        "stages count from 0; better use their names",
    ),
    (
        "expansion is not supported for --from",
        "write FROM $NAME AS alias, then --from=alias",
    ),
    (
        "'from' doesn't support variable",
        "write FROM $NAME AS alias, then from=alias",
    ),
    // Mounts and devices.
    (
        "unsupported mount type",
        "types are bind, cache, tmpfs, secret and ssh",
    ),
    (
        "unsupported sharing value",
        "values are shared, private and locked",
    ),
    (
        "invalid cache sharing set",
        "sharing is for type=cache; is type= missing?",
    ),
    (
        "must be a key=value pair",
        "fields are key=value, separated by commas; a comma in a value needs quotes around the field",
    ),
    (
        "for mount type",
        "this key belongs to another type; is type= missing?",
    ),
    (
        "type mounts",
        "mode, uid and gid are for type=cache, secret and ssh",
    ),
    (
        "unexpected key '",
        "keys are type, from, source, target, id, sharing, mode, uid, gid, size, env, required, ro and rw",
    ),
    (
        "secret mount should not",
        "secrets have id, target, env, required, mode, uid and gid",
    ),
    ("one of source, target required", "name the secret: id=NAME"),
    (
        "both source and id",
        "source means the same as id; leave one",
    ),
    ("ssh does not support source", "name the agent: id=NAME"),
    (
        "invalid mount target",
        "mount onto a folder below the root: target=/path",
    ),
    ("for mode", "modes are octal, such as 0755"),
    ("for uid", "user ids are numbers here"),
    ("for gid", "group ids are numbers here"),
    (
        "for size",
        "sizes are numbers with b, k, m or g, such as 64m",
    ),
    ("invalid value for", "the value is true or false"),
    (
        "failed to parse csv",
        "fields are separated by commas; quotes go around a whole field",
    ),
    // Ports and signals.
    ("invalid port", "ports are such as 80, 80/udp or 8000-8010"),
    (
        "invalid containerPort",
        "ports are numbers from 0 to 65535, ranges go upwards",
    ),
    (
        "invalid hostPort",
        "write the port of the container alone: host ports are given when it is run",
    ),
    (
        "invalid ranges specified",
        "both ranges need the same length; better write the container's alone",
    ),
    (
        "invalid IP address",
        "write the port of the container alone: addresses are given when it is run",
    ),
    (
        "invalid signal",
        "signals are names such as SIGTERM, or numbers",
    ),
    // Sources.
    (
        "invalid chmod parameter",
        "modes are octal such as 0755, or symbolic such as u=rwX,go=rX",
    ),
    ("can't be a URL for COPY", "use ADD"),
    ("can't be a git ref for COPY", "use ADD"),
    ("checksum can't be specified for COPY", "use ADD"),
    (
        "checksum can't be specified for multiple",
        "write an ADD for each source",
    ),
    (
        "checksum requires HTTP(S) or Git",
        "leave --checksum out: files of the context are as they are",
    ),
    // Git.
    (
        "branch conflicts with tag",
        "give branch, tag or ref, not two of them",
    ),
    (
        " conflicts: ",
        "give it in the query or behind '#', not in both",
    ),
    (
        "checksum mismatch",
        "both name the commit: leave one of them out",
    ),
    ("has multiple values", "give each key of the query once"),
    ("has no value", "write key=value in the query"),
    (
        "unexpected query",
        "keys are ref, branch, tag, commit, checksum, subdir, keep-git-dir, submodules and mtime",
    ),
    (
        "inconsistent keep-git-dir",
        "give it by flag or in the query, not by both",
    ),
    ("invalid keep-git-dir value", "the value is true or false"),
    ("invalid submodules value", "the value is true or false"),
    (
        "invalid fetch-by-commit value",
        "the value is true or false",
    ),
    (
        "invalid mtime value",
        "checkout is now, commit the time of the commit",
    ),
    (
        "failed to process \"",
        "the variable needs a value: set it with ENV, or with ARG and --build-arg",
    ),
];

#[cfg(test)]
mod tests {
    use super::{HINTS, of};

    #[test]
    fn each_row_can_be_reached() {
        for (index, (part, hint)) in HINTS.iter().enumerate() {
            assert_eq!(
                of(part),
                Some(*hint),
                "{part} is hidden by a row above {index}"
            );
            assert!(!hint.ends_with('.'), "{hint}");
        }
    }

    #[test]
    fn other_messages_have_none() {
        assert_eq!(of("something else"), None);
    }
}
