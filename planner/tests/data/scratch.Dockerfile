# options: --platform linux/arm64
FROM scratch
WORKDIR /foo
WORKDIR /
USER 1
CMD []
