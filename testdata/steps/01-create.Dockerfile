FROM busybox
RUN echo made > /made && mkdir -p /srv/a/b && touch /srv/a/b/c
