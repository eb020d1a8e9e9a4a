//! Ten Dockerfiles, and for each an edit after which its first steps run again without need, and one that changes the result.

/// A Dockerfile and its edits: scripts for `sh` in the context, with the number of the round as `$1`. What they print are
/// flags for the build.
#[derive(Debug)]
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// Its folder below the project.
    pub context: &'static str,
    /// Flags of all its builds.
    pub flags: &'static [&'static str],
    /// The edit without need, in words.
    pub edit: &'static str,
    /// The edit.
    pub same: &'static str,
    /// The edit with another result.
    pub other: &'static str,
}

/// All of them.
pub const CASES: [Case; 10] = [
    Case {
        name: "multi-stage-c",
        context: "examples/multi-stage-c",
        flags: &["--build-arg=BASE=debian:12"],
        edit: "a comment in a C file",
        same: "echo \"/* $1 */\" >> src/table.c",
        other: "echo \"int extra_$1(void) { return $1; }\" >> src/table.c",
    },
    Case {
        name: "generated-site",
        context: "examples/generated-site",
        flags: &[],
        edit: "a comment in the generator",
        same: "sed -i \"2i # $1\" generate.sh",
        other: "echo \"Update $1.\" >> posts/01-firing.txt",
    },
    Case {
        name: "python-app",
        context: "examples/python-app",
        flags: &["--build-arg=BASE=debian:12"],
        edit: "a comment in a test",
        same: "echo \"# $1\" >> tests/test_book.py",
        other: "echo \"EXTRA = $1\" >> notes/book.py",
    },
    Case {
        name: "monorepo",
        context: "testdata/cutoff/monorepo",
        flags: &[],
        edit: "a line in the README, with `COPY . .`",
        same: "echo \"Line $1\" >> README.md",
        other: "sed -i \"s/api is well[^\\\"]*/api is well $1/\" api/main.c",
    },
    Case {
        name: "build-number",
        context: "testdata/cutoff/build-number",
        flags: &[],
        edit: "another revision as a build argument",
        same: "echo --build-arg=REVISION=same$1",
        other: "echo \"p { margin: ${1}px }\" >> assets/base.css",
    },
    Case {
        name: "nightly",
        context: "testdata/cutoff/nightly",
        flags: &[],
        edit: "`--no-cache-filter` for the packages",
        same: "echo --no-cache-filter=packages",
        other: "sed -i \"s:apt-get install:touch /etc/changed.$1 \\&\\& apt-get install:\" Dockerfile",
    },
    Case {
        name: "debian-packages",
        context: "testdata/cutoff/debian-packages",
        flags: &[],
        edit: "a comment in the list of packages",
        same: "echo \"# $1\" >> packages.txt",
        other: "sed -i \"s:apt-get install:touch /etc/changed.$1 \\&\\& apt-get install:\" Dockerfile",
    },
    Case {
        name: "python-package",
        context: "testdata/cutoff/python-package",
        flags: &[],
        edit: "a comment in requirements.txt",
        same: "echo \"# $1\" >> requirements.txt",
        other: "echo \"EXTRA = $1\" >> vendor/greeting/greeting/__init__.py",
    },
    Case {
        name: "perl-module",
        context: "testdata/cutoff/perl-module",
        flags: &[],
        edit: "a comment in a test",
        same: "echo \"# $1\" >> t/greet.t",
        other: "sed -i \"s/hello[^,]*,/hello$1,/\" lib/Greeting.pm t/greet.t",
    },
    Case {
        name: "c-version",
        context: "testdata/cutoff/c-version",
        flags: &[],
        edit: "a comment in a C file",
        same: "echo \"/* $1 */\" >> main.c",
        other: "sed -i \"s/nothing to serve[^\\\"]*/nothing to serve $1/\" main.c",
    },
];
