//! Builds whose images must be the same to the digest, here and there: manifest, config and every layer.

use super::harness::{Bench, Case, Needs, same};

/// All of them.
pub fn all() -> Vec<Case> {
    macro_rules! case {
        ($name:literal, $needs:ident, $text:expr) => {
            Case {
                name: $name,
                needs: Needs::$needs,
                run: |bench| alike(bench, $text),
            }
        };
    }
    vec![
        case!("commands", Nothing, COMMANDS),
        case!("removals", Nothing, REMOVALS),
        case!("modes", Nothing, MODES),
        case!("links", Nothing, LINKS),
        case!("owners", Root, OWNERS),
        case!("devices", RootThere, DEVICES),
        case!("copied-before", Root, COPIED_BEFORE),
        case!("mounts", Nothing, MOUNTS),
        case!("stages", Nothing, STAGES),
        case!("shells", Nothing, SHELLS),
        case!("names", Nothing, NAMES),
        case!("sizes", Nothing, SIZES),
        case!("environment", Nothing, ENVIRONMENT),
        case!("many-files", Nothing, MANY_FILES),
        case!("long-chain", Nothing, LONG_CHAIN),
        Case {
            name: "secrets",
            needs: Needs::Nothing,
            run: secrets,
        },
    ]
}

/// Name and value of a secret that workers have.
pub const SECRET: (&str, &str) = ("token", "known to workers alone");

const COMMANDS: &str = "\
FROM busybox
RUN echo one > /one && mkdir -p /d/e && touch -d @1000 /d/e/old
WORKDIR /work
COPY file .
RUN cat file file > twice && rm file
RUN true
";

const REMOVALS: &str = "\
FROM busybox
COPY tree /tree
RUN rm -r /tree/deep && mkdir /tree/deep && echo new > /tree/deep/new
RUN rm /tree/a && mkdir /tree/a && touch /tree/a/inside
RUN rm -r /tree && echo file > /tree
RUN rm -rf /bin/cat /tree
";

const MODES: &str = "\
FROM busybox
RUN mkdir -m 700 /private && mkdir -m 1777 /sticky && mkdir -m 2755 /group && touch /s && chmod 6755 /s && touch /n && chmod 000 /n
RUN stat -c '%n %a' /private /sticky /group /s /n > /seen && chmod 711 /private && echo more >> /s
RUN touch -d @12345 /n && stat -c '%a' /bin /tmp /s > /seen2
RUN stat -c '%a %Y' /n > /seen3
";

const LINKS: &str = "\
FROM busybox
RUN echo x > /x && ln /x /y && ln -s x /soft && ln -s /x /absolute && ln -s /nowhere/at-all /dangling && mkdir /dir && ln -s dir /to-dir
RUN echo more >> /y && stat -c '%n %h' /x /y > /counts && readlink /absolute > /target
RUN rm /x && ln /y /z && ln -sf other /soft && touch /to-dir/inside
";

const OWNERS: &str = "\
FROM busybox
RUN mkdir /o && touch /o/f && chown -R 12:34 /o && mkfifo /o/pipe && chmod 4755 /o/f
RUN stat -c '%n %u %g %a %F' /o/* > /seen && chown 0:99 /o/f
USER 1234:5678
RUN id > /tmp/id && touch /tmp/mine
";

const DEVICES: &str = "\
FROM busybox
RUN mkdir /o && mknod /o/null c 1 3 && mknod /o/block b 7 0 && chown 12:34 /o/null
RUN stat -c '%n %u %g %a %F %t %T' /o/* > /seen && rm /o/block
";

const COPIED_BEFORE: &str = "\
FROM busybox
COPY --chown=7:8 --chmod=4750 file /owned
COPY --chown=9:9 tree /tree
RUN stat -c '%n %u %g %a %Y' /owned /tree /tree/a /tree/deep > /seen
RUN echo more >> /owned && chown 1:1 /tree/a
";

const MOUNTS: &str = "\
FROM busybox AS other
RUN mkdir -p /m/deep && echo bound > /m/deep/x
FROM busybox
RUN --mount=type=bind,from=other,source=/m,target=/bound cat /bound/deep/x > /x
RUN --mount=type=bind,source=tree,target=/c --mount=type=tmpfs,target=/t touch /t/gone && cat /c/a /c/deep/b > /ab
RUN --mount=type=bind,from=other,target=/rw,rw echo lost > /rw/lost && ls /rw/m > /listed
RUN --mount=type=cache,target=/cache touch /cache/gone && echo $HOME > /home-of-it
RUN --network=none echo alone > /alone
";

const STAGES: &str = "\
FROM busybox AS a
RUN echo a > /out
FROM busybox AS b
RUN echo b > /out
FROM a AS c
RUN cat /out > /c && echo c > /out
FROM busybox
COPY --from=a /out /a
COPY --from=b /out /b
COPY --from=c /out /c
RUN cat /a /b /c > /all
";

const SHELLS: &str = "\
FROM busybox
RUN [\"/bin/touch\", \"/exec form\"]
SHELL [\"/bin/sh\", \"-e\", \"-c\"]
RUN <<EOT
echo first > /script
echo second >> /script
EOT
RUN <<ONE cat > /one
text of one
ONE
ENTRYPOINT [\"/bin/cat\"]
CMD [\"/one\"]
";

const NAMES: &str = "\
FROM busybox
RUN mkdir '/with space' && touch '/with space/a  b' /-dash '/quote\"' \"/tick'\" /ünïcode '/*' && printf x > '/back\\\\slash'
RUN ls -1 / > '/with space/list' && touch '/with space/.hidden' /.wh-not
";

const SIZES: &str = "\
FROM busybox
RUN : > /empty && mkdir /hollow && dd if=/dev/zero of=/zeros bs=1M count=12 2> /dev/null && seq 1 400000 > /text
RUN sha1sum /zeros /text > /sums && echo end >> /text && dd if=/dev/zero of=/sparse bs=1 count=1 seek=9000000 2> /dev/null
";

const ENVIRONMENT: &str = "\
ARG BASE=busybox
FROM $BASE
ARG A=from-arg
ENV B=\"from env\" PATH=/bin:/other
RUN echo \"$A $B $PATH $HOME\" > /seen && pwd >> /seen
WORKDIR /made/by/workdir
USER nobody
RUN echo \"$HOME $(id -un)\" > /tmp/nobody && pwd >> /tmp/nobody
";

const MANY_FILES: &str = "\
FROM busybox
RUN mkdir /many && cd /many && for i in $(seq 1 1500); do echo $i > $i; done
RUN cd /many && rm 7 77 777 && echo changed > 1000 && find . -type f | wc -l > /count
";

const LONG_CHAIN: &str = "\
FROM busybox
RUN echo 1 > /n1
RUN echo 2 > /n2
RUN echo 3 > /n3
RUN echo 4 > /n4
RUN echo 5 > /n5
RUN cat /n1 /n2 /n3 /n4 /n5 > /n6
";

/// The digest is that of the value.
const SECRETS: &str = "\
FROM busybox
RUN --mount=type=secret,id=token,required,mode=0444 stat -c '%a %s' /run/secrets/token > /seen && sha256sum < /run/secrets/token > /sum
RUN --mount=type=secret,id=token,env=TOKEN printf %s \"$TOKEN\" | sha256sum | cmp - /sum && test ! -e /run/secrets && echo ${#TOKEN} > /length
";

/// A step gets the worker's secret, whatever this machine has, and here the same one makes the same image.
fn secrets(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context(SECRETS)?;
    let build = |value: &str, flags: &[&str]| {
        let file = bench.unique("secret");
        crate::bench::write_file(&file, value)?;
        let secret = format!("--secret=id={},src={}", SECRET.0, file.display());
        bench.good(&bench.machine(), &context, &[flags, &[&secret]].concat())
    };
    let local = build(SECRET.1, &[])?;
    let flag = bench.executor(",allow=secret");
    let there = build("known here", &[&flag])?;
    same("image", &there.digest, &local.digest)?;
    same("steps here", &there.count("runs on this machine"), &0)?;
    same("notes", &there.count("secret token is the worker's"), &1)?;
    same("values told", &there.count(SECRET.1), &0)?;
    let second = bench.good(&bench.machine(), &context, &[&flag])?;
    same("image of a second machine", &second.digest, &local.digest)?;
    same("hits there", &second.count("remote hit"), &2)
}

/// Here, there, and on a second machine that only takes what the first has left there.
fn alike(bench: &Bench, dockerfile: &str) -> Result<(), String> {
    let context = bench.context(dockerfile)?;
    let here = bench.machine();
    let local = bench.good(&here, &context, &[])?;
    if local.digest.is_empty() {
        return Err(format!("no image:\n{}", local.said));
    }
    let flag = bench.executor("");
    let remote = bench.machine();
    let there = bench.good(&remote, &context, &[&flag])?;
    if there.digest != local.digest {
        return Err(format!(
            "the image is {} here and {} there; changes from here to there:\n{}",
            local.digest,
            there.digest,
            bench.difference(&here, &remote)
        ));
    }
    let here_too = there.count("runs on this machine");
    let second = bench.good(&bench.machine(), &context, &[&flag])?;
    same("image of a second machine", &second.digest, &local.digest)?;
    let runs = dockerfile
        .lines()
        .filter(|line| line.starts_with("RUN"))
        .count();
    same(
        "hits there",
        &second.count("remote hit"),
        &(runs - here_too),
    )
}
