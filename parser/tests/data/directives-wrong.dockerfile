# syntax=a
# SYNTAX=b
# escape=/
FROM scratch
