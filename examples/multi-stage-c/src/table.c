#include "table.h"

#include <stdlib.h>
#include <string.h>

static int same(const struct word *word, const char *text, size_t length)
{
    return strlen(word->text) == length && memcmp(word->text, text, length) == 0;
}

static int grow(struct table *table)
{
    size_t capacity = table->capacity ? table->capacity * 2 : 64;
    struct word *words = realloc(table->words, capacity * sizeof *words);
    if (!words)
        return -1;
    table->words = words;
    table->capacity = capacity;
    return 0;
}

int table_add(struct table *table, const char *text, size_t length)
{
    for (size_t i = 0; i < table->length; i++) {
        if (same(&table->words[i], text, length)) {
            table->words[i].count++;
            return 0;
        }
    }
    if (table->length == table->capacity && grow(table) != 0)
        return -1;
    char *copy = malloc(length + 1);
    if (!copy)
        return -1;
    memcpy(copy, text, length);
    copy[length] = '\0';
    table->words[table->length++] = (struct word){ .text = copy, .count = 1 };
    return 0;
}

static int compare(const void *left, const void *right)
{
    const struct word *a = left, *b = right;
    if (a->count != b->count)
        return a->count < b->count ? 1 : -1;
    return strcmp(a->text, b->text);
}

void table_sort(struct table *table)
{
    if (table->length > 0)
        qsort(table->words, table->length, sizeof *table->words, compare);
}

void table_free(struct table *table)
{
    for (size_t i = 0; i < table->length; i++)
        free(table->words[i].text);
    free(table->words);
}
