FROM busybox
RUN dd if=/dev/zero of=/sparse bs=1 count=1 seek=9999999 2>/dev/null && printf x | dd of=/sparse bs=1 seek=4000000 conv=notrunc 2>/dev/null
