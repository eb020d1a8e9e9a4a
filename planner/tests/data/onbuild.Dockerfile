FROM busybox AS side
RUN touch /x
FROM triggers AS mid
ENV OWN=1
RUN own
ONBUILD RUN echo from the stage
ONBUILD ENV FROM_STAGE=1
FROM mid
RUN last
