//! RUN instructions: commands that touch, replace, rename and link what is there, and mounts.

use super::dockerfile::Generator;

/// Commands for root on a base image; each succeeds whatever ran before. `{k}` is a number.
const SCRIPTS: &[&str] = &[
    "echo {k} > /f{k}",
    "rm -f /data/one",
    "rm -rf /data/two",
    "rm -rf /data && mkdir /data && echo new > /data/new",
    "[ ! -e /data/one ] || mv /data/one /data/moved",
    "[ ! -d /data/two ] || mv /data/two /two{k}",
    "[ ! -d /data ] || ln -sf one /data/sym",
    "ln -f /exist /exist-hard || true",
    "rm -rf /lnk && mkdir /lnk && touch /lnk/x",
    "rm -rf /srv/real && echo f > /srv/real",
    "rm -rf /exist && mkdir /exist && echo in > /exist/in",
    "chmod 700 /data",
    "chmod 4711 /exist",
    "chown 1000:1001 /data",
    "chown -R 5:6 /srv",
    "chown -h 7:8 /dang",
    "touch /exist",
    "echo more >> /data/two/three || true",
    "cp -a /data /copy{k} || true",
    "mkdir -p /made/s && echo m > /made/f && echo t > /made/s/t && ln -s f /made/lnk || true",
    "mkfifo /ff{k}",
    "touch -t 200001010000 /exist",
    "touch -h -t 200001010000 /dang",
    "mkdir -p /a/b && rmdir /a/b",
    "echo a > /tmp/t && rm /tmp/t",
    "true",
    "rm -rf /old && mkdir -m 700 /old",
    "umask 027; mkdir -p /um{k}; echo x > /um{k}/f",
    "mkdir -p /.wh && touch /.wh/x",
    "echo \"$A-$B-$UNSET-${C:-c}\" > /vars",
    "env | grep -v -e HOSTNAME -e ^_ -e PWD | sort > /env",
    "pwd > /pwd; id > /id; umask > /umask",
    "cd /data && rm -f hard && echo h > hard",
    "mkdir -p /deep/1/2/3 && echo d > /deep/1/2/3/f && mv /deep/1/2 /deep/2",
    "rm -rf /home/app && mkdir /home/app",
    "ln -s /data /data/self || true",
    "rm -f /bin/yes && ln -s busybox /bin/yes",
    "echo x > '/sp ace/new file'",
    "mkdir -p /e1 /e2/e3 && chmod 1777 /e1",
    "rm -rf /tmp/* /var/tmp",
    "echo one > /h1 && ln /h1 /h2 && ln /h1 /tmp/h3",
    "mv /suid /suid-moved || true",
    "mv /lnk /lnk-moved || true",
    "mv /exist /data/ || true",
    "rm -rf /sgid && mkdir /sgid && mkdir /sgid/sub",
    "mkdir /sgid/new{k} && touch /sgid/new{k}/f || true",
    "dd if=/dev/zero of=/sparse{k} bs=1 count=1 seek=100000 2>/dev/null",
    "chmod 0 /etc/group",
    "cp -p /etc/passwd /etc/passwd- && echo 'late:x:77:78::/:/bin/sh' >> /etc/passwd",
    "hostname > /hostname",
    "cat /proc/self/mounts | cut -d' ' -f2 | grep -v -e /sys/fs -e docker | sort > /tmp/m; rm /tmp/m",
    "printf '%s\\n' *  > /glob",
    "stat -c '%a %F' /dev/null /dev/shm /proc /tmp > /stat",
    "(sleep 0; echo bg > /bg) & wait",
];

/// Commands for any user.
const HUMBLE: &[&str] = &[
    "id > /tmp/id{k}",
    "touch /tmp/t{k} && chmod 600 /tmp/t{k}",
    "mkdir -p /tmp/d{k}/e && echo x > /tmp/d{k}/e/f",
    "echo \"$HOME $A\" > /tmp/home{k}",
    "touch /cannot 2>/dev/null || echo no > /tmp/no{k}",
    "ln -s nowhere /tmp/l{k}",
    "pwd > /tmp/pwd{k}; ls -ln . | wc -l >> /tmp/pwd{k}",
];

/// Instructions of other shapes, for root.
const SHAPES: &[&str] = &[
    "RUN [\"/bin/sh\", \"-c\", \"echo exec $A > /exec\"]",
    "RUN [\"touch\", \"/exec touch\"]",
    "RUN <<EOF\necho heredoc $A > /hd\nprintf '%s' \"$B\" >> /hd\nEOF",
    "RUN <<'EOF'\necho 'quoted $A' > /hdq\nEOF",
    "RUN <<-EOF\n\techo tabs > /hdt\n\t\techo more >> /hdt\n\tEOF",
    "RUN <<EOF\n#!/bin/sh\necho shebang $0 > /tmp/sb\necho $# > /hdsb\nrm /tmp/sb\nEOF",
    "RUN <<EOF sh\necho piped > /hdp\nEOF",
    "RUN cat <<EOF > /hdc && cat <<TWO >> /hdc\none $A\nEOF\ntwo\nTWO",
    "RUN <<ONE cat > /hd1; <<TWO cat > /hd2\nfirst\nONE\nsecond\nTWO",
    "RUN 3<<EOF cat <&3 > /hd3\nthird\nEOF",
    "RUN --network=none echo net > /net",
    "RUN --network=default echo net > /net",
    "RUN --mount=type=bind,target=/ctx cd /ctx && find . | sort > /list",
    "RUN --mount=target=/ctx,rw echo x > /ctx/written && ls /ctx/a.txt > /listed || true",
    "RUN --mount=type=bind,source=d,target=/mnt/d cp -a /mnt/d /copied && stat -c '%a %u %g %F' /mnt/d/* > /stats",
    "RUN --mount=source=a.txt,target=/mnt/a.txt cat /mnt/a.txt > /got",
    "RUN --mount=type=bind,from={base},source=/data,dst=/other ls -ln /other | cut -c1-30 > /otherlist",
    "RUN --mount=from={base},target=/other,readwrite rm -rf /other/data && ls /other > /otherlist",
    "RUN --mount=type=cache,target=/cache,id={id} echo x >> /cache/f; cat /cache/f > /c; stat -c '%a %u %g' /cache > /st",
    "RUN --mount=type=cache,target=cachedir,id={id}r,mode=0700,uid=5,gid=6 stat -c '%a %u %g' cachedir > /st",
    "RUN --mount=type=cache,target=/cache,id={id}f,from={base},source=/data,sharing=locked ls /cache > /cl",
    "RUN --mount=type=cache,target=/data,id={id}o touch /data/hidden && ls /data > /dl",
    "RUN --mount=type=tmpfs,target=/t echo x > /t/f; stat -c '%a %u %g' /t > /st",
    "RUN --mount=type=tmpfs,target=/data,size=1m ls /data > /empty-list",
    "RUN --mount=type=secret,id=none ls /run/secrets > /secrets 2>&1 || true",
    "RUN --mount=type=tmpfs,target=/deep/new/mount true",
    "RUN --mount=type=bind,target=\"/quo\",source=d ls /quo > /quolist",
    "RUN --mount=type=bind,target=${D:-/dd},source=d ls ${D:-/dd} > /ddlist",
    "RUN echo   spaces   'kept  here' > /sp",
    "RUN echo one && \\\n    # a comment inside\n    echo two > /two\n",
    "RUN echo \\\n\n  after > /after",
];

impl Generator<'_> {
    /// A RUN that should succeed.
    pub fn run(&mut self) -> String {
        if !self.is_root {
            let script = self.random.pick(HUMBLE);
            return format!("RUN {}", self.filled(script));
        }
        if self.random.chance(35) {
            let shape = self.random.pick(SHAPES);
            return self.filled(shape);
        }
        let script = self.random.pick(SCRIPTS);
        format!("RUN {}", self.filled(script))
    }
}
