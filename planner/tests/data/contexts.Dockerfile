# options: --build-context docker.io/library/alpine:latest --build-context replaced --build-context dirs --build-context dirbase
FROM alpine AS one
FROM busybox AS replaced
RUN never
FROM replaced AS two
RUN two
FROM dirbase
COPY --from=dirs a b
COPY --from=one /etc /etc
COPY --from=replaced /r /r
COPY --from=two /t /t
COPY --from=scratch . /nothing
