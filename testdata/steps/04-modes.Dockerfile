FROM busybox
RUN mkdir /d && touch /d/f && chmod 0750 /d && chmod 04711 /d/f
RUN chmod 0600 /etc/passwd
RUN chmod 1777 /d
