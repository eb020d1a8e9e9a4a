FROM alpine
RUN a \
  b
RUN <<EOF
x
EOF
ENV A=1