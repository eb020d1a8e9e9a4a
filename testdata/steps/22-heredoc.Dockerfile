FROM busybox
RUN <<END
set -e
mkdir /heredoc
echo one > /heredoc/one
END
RUN <<END /bin/sh -e
echo two > /heredoc/two
END
