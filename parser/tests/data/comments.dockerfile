#

# Global.

# v is the version
ARG v=1
   # base is indented
FROM alpine:$v AS base
# cut off
#
# kept
RUN true # not a comment
# nothing below
