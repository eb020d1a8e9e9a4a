FROM busybox
RUN mkfifo -m 600 /pipe && mkdir /d && mkfifo /d/other
RUN rm /pipe
