FROM --platform=linux/arm64 bare
ENTRYPOINT run me
FROM empty
COPY a /
COPY --from=0 a /
