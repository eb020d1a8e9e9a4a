FROM alpine AS ünï
# Größe
LABEL größe="12 ♥" name=名前
RUN --mount=type=cache,target=/größe echo 한국어 \
    ＃ ☃
COPY ["♥", "\u2603/"]
ärgs x
