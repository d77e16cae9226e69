/* Says back, in capitals, what it is sent: one connection a line of a poem. */
#include <arpa/inet.h>
#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void loud(char *text, ssize_t length) {
    for (ssize_t i = 0; i < length; i++) text[i] = (char)toupper((unsigned char)text[i]);
}

static void answer(int connection) {
    char text[4096];
    ssize_t got;
    while ((got = read(connection, text, sizeof text)) > 0) {
        loud(text, got);
        for (ssize_t put = 0, n; put < got; put += n)
            if ((n = write(connection, text + put, (size_t)(got - put))) <= 0) return;
    }
}

static int check(void) {
    char text[] = "stratus";
    loud(text, (ssize_t)strlen(text));
    return strcmp(text, "STRATUS") != 0;
}

static void leave(int number) { _exit(number == SIGTERM ? 0 : 1); }

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "--check")) return check();
    signal(SIGTERM, leave);
    signal(SIGCHLD, SIG_IGN);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(7777), .sin6_addr = IN6ADDR_ANY_INIT};
    int yes = 1, listener = socket(AF_INET6, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (listener < 0 || bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 64)) {
        perror("listen on 7777");
        return 1;
    }
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection >= 0 && fork() == 0) {
            answer(connection);
            _exit(0);
        }
        close(connection);
    }
}
