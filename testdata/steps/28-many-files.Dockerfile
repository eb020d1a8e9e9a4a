FROM busybox
RUN mkdir /many && cd /many && for n in $(seq 1 500); do echo $n > f$n; done
RUN cd /many && for n in $(seq 1 2 500); do rm f$n; done
RUN cd /many && for n in $(seq 2 10 500); do echo again >> f$n; done
