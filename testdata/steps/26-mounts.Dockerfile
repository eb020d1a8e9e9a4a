FROM busybox
RUN --mount=type=tmpfs,target=/scratch --mount=type=cache,target=/cache touch /scratch/x /cache/y && ls /scratch /cache > /seen
RUN --mount=type=bind,source=folder,target=/bound cat /bound/b.txt > /read
