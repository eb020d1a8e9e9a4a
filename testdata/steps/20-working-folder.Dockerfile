FROM busybox
WORKDIR /made/by/workdir
RUN echo x > here
WORKDIR more
RUN pwd > there
