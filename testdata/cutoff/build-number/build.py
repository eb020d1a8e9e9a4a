"""Puts all style sheets and all scripts into one file each, without comments and empty lines."""

import pathlib
import re
import sys

source, dest = (pathlib.Path(word) for word in sys.argv[1:])
dest.mkdir()
for suffix in (".css", ".js"):
    texts = (path.read_text() for path in sorted(source.glob("*" + suffix)))
    text = re.sub(r"/\*.*?\*/", "", "\n".join(texts), flags=re.DOTALL)
    lines = (line.strip() for line in text.splitlines())
    (dest / ("all" + suffix)).write_text("\n".join(line for line in lines if line) + "\n")
