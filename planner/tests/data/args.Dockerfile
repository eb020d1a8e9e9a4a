# options: --build-arg VERSION=3 --build-arg HTTP_PROXY=http://p:1 --build-arg no_proxy=local --build-arg UNUSED=1 --build-arg ALSO=2 --build-arg BUILDKIT_SANDBOX_HOSTNAME=box
ARG IMAGE=busy${SUFFIX:-box} VERSION=1
ARG QUOTED="a b"
FROM $IMAGE AS base
ARG VERSION
ARG QUOTED
ARG LOCAL=$VERSION-$QUOTED UNSET
ENV BOTH=env
ARG BOTH=arg
RUN echo $VERSION
ENV LOCAL=env
RUN echo again
FROM base
ARG VERSION=9
RUN echo child
FROM base
RUN echo ${LOCAL} and "$HOME" and ${UNSET:-none}
