FROM --platfrom=x alpine
COPY --form=a --link=maybe --chown a /b
COPY --from=a --from=b c /d
RUN --mount=type=cache,from=$X,target=/x --mount='a"b' --device=a,b --network=non --security=full true
USER --x me
HEALTHCHECK --interval=5 --retries=1 CMD x
HEALTHCHECK --timeout=1us CMD x
HEALTHCHECK --retries=-1 CMD x
HEALTHCHECK --retries=many CMD x
