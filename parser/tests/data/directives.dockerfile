# syntax = docker/dockerfile:1.7 # the rest of the value
# Check=skip=StageNameCasing;error=true
#escape=`

# This one is a comment: check=skip=all
ARG BASE=alpine
FROM ${BASE}
COPY C:\in C:\out
RUN echo one `
    two
