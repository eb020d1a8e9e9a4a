FROM busybox
RUN d=/deep; for n in $(seq 1 40); do d=$d/$n; done; mkdir -p $d && echo end > $d/end
RUN rm -r /deep/1/2/3
