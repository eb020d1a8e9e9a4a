#include <stdio.h>

int main(void)
{
    return puts("worker is well") < 0;
}
