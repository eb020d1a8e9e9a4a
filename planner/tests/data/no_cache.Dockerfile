# options: --no-cache-filter FINAL
FROM busybox AS base
RUN one
FROM base AS final
WORKDIR /w
COPY a .
RUN --mount=target=/m two
