FROM busybox
RUN mkdir /d && echo x > /d/f && echo y > /g
RUN mv /g /d/h && mv /d/f /f && mv /d /e
