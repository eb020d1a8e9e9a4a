#include <stdio.h>
#include <string.h>

static const char version[] = "server 1.4, built on " __DATE__ " at " __TIME__;

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--version") == 0)
        return puts(version) < 0;
    return puts("nothing to serve") < 0;
}
