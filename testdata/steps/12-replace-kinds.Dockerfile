FROM busybox
RUN mkdir /a && touch /b && ln -s b /c
RUN rm -r /a && ln -s b /a && rm /b && mkdir /b && rm /c && mkfifo /c
