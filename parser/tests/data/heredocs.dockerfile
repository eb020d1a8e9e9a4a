FROM alpine
RUN <<EOF
echo "$A"
	tabs stay
EOF
RUN <<-'END' python3 3<< "THREE"
	print(1)
	END
three
THREE
COPY --chmod=755 <<run.sh <<-conf.d/x.conf plain /etc/
#!/bin/sh
run.sh
	key = $value
	conf.d/x.conf
RUN echo "<<NOT" '<<EITHER' <<< here
ADD ["<<JSON", "/x"]
ONBUILD RUN <<EOF
later
EOF
USER <<NOBODY
