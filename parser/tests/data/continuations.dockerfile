FR\
OM alpine:3.20 \
  AS bu\
ild
# Packages of the
# base.
RUN apk add \
    # why curl
    curl \

    git && \   
    echo "a \\" \\
ENV A=1 \
# between
    B="two \
words" \
    C=3
RUN trailing \
