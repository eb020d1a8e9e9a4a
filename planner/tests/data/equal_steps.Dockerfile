FROM busybox AS a
WORKDIR /w
COPY x y
RUN make
FROM busybox AS b
WORKDIR /w
COPY x y
RUN make
FROM scratch
COPY --from=a /w /a
COPY --from=b /w /b
