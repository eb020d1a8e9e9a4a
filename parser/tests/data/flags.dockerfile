FROM --platform=$BUILDPLATFORM golang:1.23 AS Build.1
RUN --mount=type=cache,target=/root/.cache --mount="type=secret,id=a b" --network=host --security=sandbox --device=vendor.com/gpu=0,required make
COPY --from=other --chown=app:app --chmod=u=rw,go=r --link --parents --exclude=*.o --exclude='*.a' ./src/ /dst/
COPY --link=false -- --odd /dst
ADD --keep-git-dir=true --checksum=sha256:00 --unpack=false --exclude=x https://example.com/a.tar /a
HEALTHCHECK --interval=1m30s --timeout=3s --start-period=0s --start-interval=500ms --retries=3 \
    CMD curl -f http://localhost/
HEALTHCHECK none
