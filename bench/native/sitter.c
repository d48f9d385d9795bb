/* sitter: one process of the crowd. It was started under a plausible command line, and waits to be ended. */
#include <unistd.h>

int main(void) {
    for (;;) pause();
}
