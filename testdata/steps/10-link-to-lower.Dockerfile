FROM busybox
RUN echo x > /f
RUN ln /f /g
RUN rm /f
