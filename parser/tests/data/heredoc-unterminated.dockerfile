FROM alpine
RUN true
COPY <<A <<B /x
one
A
two
RUN swallowed
