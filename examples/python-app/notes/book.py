"""Notes in a JSON file."""

import json
import os
import pathlib


class Book:
    """A list of texts that survives a restart."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def all(self):
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []

    def add(self, text):
        text = text.strip()
        if not text:
            raise ValueError("a note needs a text")
        notes = self.all() + [text]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(notes), encoding="utf-8")
        os.replace(temporary, self.path)
        return len(notes)
