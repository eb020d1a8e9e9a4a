FROM busybox
RUN mkdir -m 777 /open
USER 1234:5678
RUN echo mine > /open/file && mkdir /open/dir && umask 077 && touch /open/closed
