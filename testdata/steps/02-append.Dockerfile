FROM busybox
RUN echo first > /log
RUN echo second >> /log
RUN echo root2:x:0:0::/:/bin/sh >> /etc/passwd
