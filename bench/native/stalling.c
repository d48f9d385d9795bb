/* stalling: a process that holds its own memory map locked, as a model server that mlocks its weights does; meanwhile
 * nobody can read its command line.
 *
 * STALLING_MS: how long one walk should hold the lock. One GiB of memory is mapped again and again until a walk over
 * all mappings (mlock, munlock; mprotect where mlock may not) takes that long. "ready WAY MS" tells how long it is.
 * Then, for each line of stdin, one mlock; answers "ended NANOSECONDS", and unlocks. Its command line is whatever it was
 * started as.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAPPINGS = 48 };
static const size_t each = 1UL << 30;
static char *memory;
static int mapped, locks;

static long long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static long long walk(int half) {
    size_t length = mapped * each;
    long long began = now();
    if (!locks)
        mprotect(memory, length, half ? PROT_READ | PROT_WRITE : PROT_READ);
    else if (half)
        munlock(memory, length);
    else
        mlock(memory, length);
    return now() - began;
}

int main(void) {
    const char *wanted = getenv("STALLING_MS");
    long long enough = atol(wanted ? wanted : "300") * 1000000LL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_MEMLOCK, &unlimited);
    int file = memfd_create("weights", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, each)) return 1;
    memory = mmap(NULL, MAPPINGS * each, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return 1;
    long long took = 0;
    while (mapped < MAPPINGS && took < enough) {
        char *one = memory + mapped * each;
        if (mmap(one, each, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) return 1;
        for (size_t at = 0; at < each; at += 4096) one[at] = 1;
        mapped++;
        locks = mlock(memory, mapped * each) == 0 && munlock(memory, mapped * each) == 0;
        took = walk(0);
        walk(1);
    }
    printf("ready %s %lld\n", locks ? "mlock" : "mprotect", took / 1000000);
    fflush(stdout);
    char line[32];
    while (fgets(line, sizeof line, stdin)) {
        printf("ended %lld\n", walk(0));
        fflush(stdout);
        walk(1);
    }
    return 0;
}
