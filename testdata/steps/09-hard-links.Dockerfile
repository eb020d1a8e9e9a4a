FROM busybox
RUN mkdir /d && echo x > /d/a && ln /d/a /d/b && ln /d/a /c
RUN echo y >> /d/b
