FROM alpine
RUN cat <<E"O"F
hidden $x
EOF
RUN it's not <<EOF a mark
COPY <<'open /x
RUN after
