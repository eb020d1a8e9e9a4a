FROM busybox
ARG who=1:2 mode=640 none
WORKDIR /work
COPY a b* dir/ ./
COPY --chown=$who --chmod=$mode --parents --exclude=*.md --exclude=$none/x a/./b .
COPY --link a /linked/
COPY --link --chmod=u=rwX,go=rX a /with-mode
COPY --chown=$none ["with space", "/to/."]
ADD archive.tar.gz /unpacked/
ADD --unpack=false archive.tar.gz sub/../file
COPY $none$mode ""
