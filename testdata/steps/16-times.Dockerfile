FROM busybox
RUN touch -d '1985-10-26 01:21:00' /old && mkdir /d && touch -d '2000-01-01 00:00:00' /d
RUN touch -d '2010-01-01 00:00:00' /old
