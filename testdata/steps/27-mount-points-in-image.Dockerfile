FROM busybox
RUN mkdir -m 700 /cache && touch /cache/below
RUN --mount=type=cache,target=/cache touch /cache/above
RUN --mount=type=tmpfs,target=/etc/inner touch /etc/inner/x
