FROM busybox
ARG name=world
RUN <<EOF
echo "hello $name"
echo again
EOF
RUN <<-EOF
	one
		two
EOF
RUN <<EOF
#!/usr/bin/env python3
print("hi")
EOF
RUN cat <<'A' > /a && cat <<B > /b
first $name
A
second
B
RUN python3 <<EOF
print("x")
EOF
COPY <<EOF <<-"RAW" plain.txt /dest/
hello "$name" '${name}' \$name
EOF
	raw $name
RAW
SHELL ["/bin/bash", "-ec"]
RUN <<EOF
set -x
EOF
