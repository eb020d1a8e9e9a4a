FROM busybox
RUN (setsid sh -c 'trap "" TERM; sleep 1000' >/dev/null 2>&1 &) ; echo done > /done
RUN ls / > /listed && test -f /done
