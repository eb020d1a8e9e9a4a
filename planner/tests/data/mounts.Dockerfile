# options: --cache-ns ns --build-context dirs --shm-size 1048576
FROM busybox AS tools
FROM rich
ARG CACHE=/var/cache
RUN --mount=target=/ctx one
RUN --mount=type=bind,target=again --mount=type=bind,source=src/[a],target=/src,rw two
RUN --mount=type=bind,from=tools,source=/bin,target=/tools --mount=from=alpine,target=/alpine three
RUN --mount=type=bind,from=dirs,source=sub,target=/sub four
RUN --mount=type=cache,target=$CACHE --mount=type=cache,id=x,target=rel,sharing=locked,mode=0700,uid=1,gid=2,from=tools,source=/seed five
RUN --mount=type=tmpfs,target=/t --mount=type=tmpfs,target=/u,size=16m six
RUN --mount=type=secret,id=key --mount=type=secret,id=tok,env=TOKEN --mount=type=secret,target=/root/.netrc,required,mode=0444,uid=5 echo $TOKEN
RUN --mount=type=ssh --mount=type=ssh,id=other,target=/agent seven
RUN --network=none --security=insecure eight
