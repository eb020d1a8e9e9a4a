# options: --platform linux/amd64,linux/arm64,linux/arm/v7
FROM --platform=$BUILDPLATFORM busybox AS tools
RUN fetch
FROM tools AS build
ARG TARGETPLATFORM TARGETARCH TARGETVARIANT
RUN compile for $TARGETARCH
FROM busybox
ARG TARGETARCH=ignored
COPY --from=tools /t /t
COPY --from=build /b /b
RUN install
