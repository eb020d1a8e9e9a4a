FROM busybox
ENV A=one B="two three"
ARG C=four
RUN echo "$A $B $C $HOME" > /variables && env | grep -v -e HOSTNAME | sort > /all
