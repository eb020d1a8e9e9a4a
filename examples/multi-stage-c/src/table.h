/* Counts how often words occur. */
#ifndef TABLE_H
#define TABLE_H

#include <stddef.h>

struct word {
    char *text;
    size_t count;
};

struct table {
    struct word *words;
    size_t length;
    size_t capacity;
};

/* Counts one more occurrence. Returns 0, or -1 when there is no memory. */
int table_add(struct table *table, const char *text, size_t length);

/* Most frequent words first, equally frequent ones by name. */
void table_sort(struct table *table);

void table_free(struct table *table);

#endif
