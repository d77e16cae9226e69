#include <ctype.h>
#include <stdio.h>

int main(void) {
    for (int c; (c = getchar()) != EOF;) {
        if (isalpha(c)) {
            int base = isupper(c) ? 'A' : 'a';
            c = base + (c - base + 13) % 26;
        }
        putchar(c);
    }
    return 0;
}
