#include <stdio.h>

int main(void)
{
    return puts("api is well") < 0;
}
