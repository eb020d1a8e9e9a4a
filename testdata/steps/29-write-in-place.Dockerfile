FROM busybox
RUN seq 1 10000 > /f
RUN sed -i s/5000/x/ /f
RUN printf y | dd of=/f bs=1 seek=20000 conv=notrunc 2>/dev/null
