"""A list of notes behind HTTP."""
