/* changer: a process that changes what its command line says, in each of the ways that the kernel allows.
 *
 * changer TEXT...      waits for one letter on stdin, does it, answers "done":
 *   e  exec: becomes itself again under the command line of $CHANGER_TEXT
 *   o  overwrites its arguments in place with $CHANGER_TEXT
 *   t  sets a title longer than its arguments were, over its environment, as setproctitle does
 *   d  its first thread exits; another one lives on and holds the memory
 * changer --as PID SITTER TEXT...  starts SITTER as a child that has exactly this pid (clone3, set_tid), and waits for
 *                                  the end of stdin; "denied" where that is not allowed
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void say(const char *what) {
    printf("%s\n", what);
    fflush(stdout);
}

static void *live_on(void *unused) {
    (void)unused;
    usleep(20000); /* until the first thread has gone */
    say("done");
    while (getchar() != EOF) {
    }
    _exit(0);
}

static int start_as(pid_t wanted, char **command) {
    pid_t ids[1] = {wanted};
    struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)ids, .set_tid_size = 1};
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execv(command[0], command + 1);
        _exit(127);
    }
    if (pid != wanted) {
        say("denied");
        return 1;
    }
    usleep(20000);
    say("done");
    while (getchar() != EOF) {
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc > 4 && !strcmp(argv[1], "--as")) return start_as(atoi(argv[2]), argv + 3);
    char *text = getenv("CHANGER_TEXT");
    text = strdup(text ? text : "");
    char *arguments = argv[0];
    size_t length = argv[argc - 1] + strlen(argv[argc - 1]) - arguments;
    char **last = environ;
    while (last[0] && last[1]) last++;
    size_t with_environment = last[0] + strlen(last[0]) - arguments;
    say("ready");
    for (int letter; (letter = getchar()) != EOF;) {
        if (letter == 'e') {
            char *again[] = {text, NULL};
            execv("/proc/self/exe", again);
            return 1;
        }
        if (letter == 'o') {
            memset(arguments, 0, length);
            memcpy(arguments, text, strlen(text) < length ? strlen(text) : length);
            say("done");
        }
        if (letter == 't') {
            memset(arguments, ' ', with_environment);
            memcpy(arguments, text, strlen(text) < with_environment ? strlen(text) : with_environment);
            arguments[with_environment] = 0;
            say("done");
        }
        if (letter == 'd') {
            pthread_t thread;
            pthread_create(&thread, NULL, live_on, NULL);
            pthread_exit(NULL);
        }
    }
    return 0;
}
