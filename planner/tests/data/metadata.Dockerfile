# options: --label cli=yes --label from=flag
FROM rich
LABEL one=1 two="a b" "three 3"='$V' from=dockerfile
ENV A=$A:new B="$A" C='$A' D=a\ b
ENV legacy rest of the line
EXPOSE 80 443/UDP 8000-8002
VOLUME /data /more
VOLUME ["/json"]
USER 12:34
WORKDIR app
WORKDIR ../lib/
STOPSIGNAL SIGINT
HEALTHCHECK --interval=90s --timeout=1500ms --retries=3 CMD curl -f http://localhost/
MAINTAINER Somebody <some@body>
CMD echo $A
ENTRYPOINT ["/bin/e", "a\"b"]
SHELL ["/bin/zsh", "-c"]
RUN make
ONBUILD RUN echo later
ONBUILD COPY . /app
