FROM alpine
RUNN <<EOF <<-B
echo one
EOF
	B
RUN apk add curl
    && apk add git
COPPY <<NONE /x
run true
FROM --platform= a
