FROM busybox
RUN mkdir /d && touch /d/f && chown -R 12:34 /d
RUN chown 1000:2000 /etc/group && chown -h 7:8 /d
