/* crowd: starts one sitter per line of stdin, each under that line as its command line (arguments parted by tabs).
 *
 * Protocol: lines, then an empty line; answers "ready N"; ends every sitter by its pid when stdin closes. The kernel
 * ends them as well should this process die (PR_SET_PDEATHSIG survives exec).
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 40000, ARGUMENTS = 64 };

static pid_t sitters[MOST];

static pid_t start(const char *sitter, char *line) {
    char *argv[ARGUMENTS + 1];
    int count = 0;
    for (char *word = strtok(line, "\t"); word && count < ARGUMENTS; word = strtok(NULL, "\t")) argv[count++] = word;
    argv[count] = NULL;
    if (!count) return -1;
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    execv(sitter, argv);
    _exit(127);
}

int main(int argc, char **argv) {
    if (argc != 2) return 64;
    int count = 0;
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while ((length = getline(&line, &room, stdin)) > 1) {
        line[length - 1] = 0;
        if (count == MOST) continue;
        pid_t pid = start(argv[1], line);
        if (pid < 0) break; /* no more processes may be had: what there is has to do */
        sitters[count++] = pid;
    }
    while (length > 1) length = getline(&line, &room, stdin);
    printf("ready %d\n", count);
    fflush(stdout);
    while (length > 0) length = getline(&line, &room, stdin);
    for (int i = 0; i < count; i++) kill(sitters[i], SIGKILL);
    for (int i = 0; i < count; i++) {
        while (waitpid(sitters[i], NULL, 0) < 0 && errno == EINTR) {
        }
    }
    return 0;
}
