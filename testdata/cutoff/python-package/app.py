import sys

from greeting import greet

print(greet("check" if "--check" in sys.argv else "world"))
