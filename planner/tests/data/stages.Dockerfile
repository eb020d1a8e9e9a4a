FROM busybox AS unused
RUN echo never

FROM busybox AS Build
ARG flag=on
ENV LEVEL=2
COPY . /src
RUN make

FROM build
RUN make test

FROM scratch
COPY --from=BUILD /src/out /out
COPY --from=1 /src/out2 /out2
COPY --from=alpine /etc/os-release /etc/
COPY --from=2 /report /
