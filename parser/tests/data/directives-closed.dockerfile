# a plain comment closes the directives
# escape=`
FROM scratch
RUN a \
  b
