#!/bin/sh
# generate.sh POSTS OUT TITLE: makes a page of each POSTS/*.txt and an index of all.
# A post's first line is its title; blank lines separate paragraphs.
set -eu
posts=$1 out=$2 title=$3

page_start() {
    printf '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>%s</title>\n' "$1"
    printf '<link rel="stylesheet" href="style.css"></head>\n<body>\n<h1>%s</h1>\n' "$1"
}

page_end() {
    printf '</body>\n</html>\n'
}

escape() {
    sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g'
}

paragraphs() {
    awk '
        NF == 0 { if (open) print "</p>"; open = 0; next }
        { if (!open) printf "<p>"; open = 1; print }
        END { if (open) print "</p>" }
    '
}

{
    page_start "$title"
    echo '<ul>'
    for post in "$posts"/*.txt; do
        name=$(basename "$post" .txt)
        heading=$(head -n 1 "$post" | escape)
        printf '<li><a href="%s.html">%s</a></li>\n' "$name" "$heading"
        {
            page_start "$heading"
            tail -n +2 "$post" | escape | paragraphs
            page_end
        } > "$out/$name.html"
    done
    echo '</ul>'
    page_end
} > "$out/index.html"

printf 'body { font: 1.1rem/1.6 serif; margin: 3rem auto; max-width: 34rem; }\n' > "$out/style.css"
echo "$(ls "$out"/*.html | wc -l) pages"
