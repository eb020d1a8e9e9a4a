/* wordcount: reads text, prints each word with its count, most frequent first. */
#include "table.h"

#include <ctype.h>
#include <stdio.h>

enum { LONGEST = 256 };

static int read_words(FILE *in, struct table *table)
{
    char word[LONGEST];
    size_t length = 0;
    int c;
    do {
        c = getc(in);
        if (c != EOF && (isalnum(c) || c >= 0x80)) {
            if (length < sizeof word)
                word[length++] = (char)tolower(c);
            continue;
        }
        if (length > 0 && table_add(table, word, length) != 0)
            return -1;
        length = 0;
    } while (c != EOF);
    return ferror(in) ? -1 : 0;
}

int main(void)
{
    struct table table = { 0 };
    int failed = read_words(stdin, &table) != 0;
    if (failed) {
        fputs("wordcount: could not read the text\n", stderr);
    } else {
        table_sort(&table);
        for (size_t i = 0; i < table.length; i++)
            printf("%zu %s\n", table.words[i].count, table.words[i].text);
        failed = fflush(stdout) != 0;
    }
    table_free(&table);
    return failed;
}
