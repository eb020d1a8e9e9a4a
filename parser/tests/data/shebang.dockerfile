#!/usr/bin/env kiln
# syntax=x/y
# escape=`
FROM a
RUN b \
 c
