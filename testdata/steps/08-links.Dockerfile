FROM busybox
RUN echo x > /f && ln -s f /relative && ln -s /f /absolute && ln -s nowhere /dangling
RUN rm /relative && ln -s /etc /relative && ln -sfn / /dangling
