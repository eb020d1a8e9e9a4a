FROM busybox AS build
RUN mkdir /out && echo built > /out/built && chmod 0755 /out/built && ln -s built /out/link
FROM busybox
COPY --from=build /out /opt/
RUN /bin/cat /opt/link > /read
