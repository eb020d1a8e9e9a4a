FROM busybox
RUN mkdir -p /d/e && touch /d/f /d/e/g
RUN rm /d/f /etc/group
RUN rm -r /d
