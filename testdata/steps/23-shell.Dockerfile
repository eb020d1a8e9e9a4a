FROM busybox
SHELL ["/bin/sh", "-ec"]
RUN echo shell > /shell
SHELL ["/bin/busybox", "sh", "-xc"]
RUN echo other >> /shell
