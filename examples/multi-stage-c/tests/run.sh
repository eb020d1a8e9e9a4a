#!/bin/sh
# run.sh PROGRAM: compares what the program prints with what it should.
set -eu
program=$1

check() {
    actual=$(printf "$2" | "$program")
    expected=$(printf "$3")
    if [ "$actual" != "$expected" ]; then
        printf 'FAILED %s\nexpected:\n%s\nactual:\n%s\n' "$1" "$expected" "$actual" >&2
        exit 1
    fi
    echo "passed $1"
}

check "an empty text" '' ''
check "counts, then names" 'b a b c a b' '3 b\n2 a\n1 c'
check "case and punctuation" 'One, one; ONE! two' '3 one\n1 two'
check "other letters" 'für Für\n' '2 für'
