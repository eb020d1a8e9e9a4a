FROM busybox
COPY a.txt folder /in/
RUN cat /in/a.txt /in/b.txt > /joined && rm /in/a.txt
COPY --chown=3:4 --chmod=640 a.txt /in/a.txt
RUN ls -ln /in | sed 's/  */ /g' | cut -d' ' -f1,3,4,9 > /listed
