FROM alpine
CMD []
CMD ["a", "\u00e9\ud83d\ude00\t/\/"]
CMD [ "a" ] and more
CMD ['single']
CMD plain text  kept   wide
ENTRYPOINT
ENTRYPOINT ["/bin/app"]
SHELL ["/bin/bash", "-c"]
VOLUME ["/data", "/with space"]
VOLUME /a /b
COPY ["a b", "c", "/d/"]
RUN --network=none ["ls", "-l"]
EXPOSE 80 443/tcp $PORT
STOPSIGNAL SIGTERM
USER 1000:1000
WORKDIR /a b/c
MAINTAINER Someone <someone@example.com>
LABEL one=1 "two words"="a b" three='it''s'
LABEL legacy the rest of   the line
ENV PATH=/bin:$PATH EMPTY= Q=a\ b
ARG V=1 W X="a b"
