FROM busybox
RUN mkdir "/with space" && touch "/with space/tab	here" '/quote"and\back' && touch "/$(printf 'new\nline')" && touch "/$(printf '\377\376')" && touch "/$(printf '%0250d' 7)"
