/* A process that nearly always holds its memory map, as a server does that loads with mlock: its command line cannot be
 * read meanwhile. It begins when it is told to. One gigabyte of small pages; several threads queue for the lock, so
 * that a reader stands behind them. */
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

#define SIZE (1UL << 30)

static char *map;

static void *hold(void *unused)
{
    for (;;) {
        mprotect(map, SIZE, PROT_READ);
        mprotect(map, SIZE, PROT_READ | PROT_WRITE);
    }
    return unused;
}

int main(void)
{
    pthread_t thread;

    map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return 1;
    madvise(map, SIZE, MADV_NOHUGEPAGE);
    for (unsigned long at = 0; at < SIZE; at += 4096)
        map[at] = 1;
    puts("ready");
    fflush(stdout);
    getchar();
    for (int i = 0; i < 6; i++)
        pthread_create(&thread, NULL, hold, NULL);
    getchar();
    return 0;
}
