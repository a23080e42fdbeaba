"""What the kernel and the C library keep of this process, as bytes to compare: it takes a third of the time.

These are the looks of `properties` that are marked there, in C: when the bytes are those of a moment at which all of
them were as wanted, they are so now. Where this file was not compiled, each of them looks for itself.
"""

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <grp.h>
    #include <locale.h>
    #include <sched.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/time.h>
    #include <time.h>
    #include <unistd.h>

    #define STATE_BYTES 4096
    #define SUMMER 1720000000  /* as in properties */

    /* `at` is where the next bytes go; NULL: something did not fit. */
    struct state { char *at, *end; };

    static void add(struct state *state, const void *data, size_t size) {
        if (state->at == NULL || size > (size_t)(state->end - state->at)) { state->at = NULL; return; }
        memcpy(state->at, data, size);
        state->at += size;
    }

    static void add_number(struct state *state, long value) { add(state, &value, sizeof value); }

    static void add_limits(struct state *state) {
        static const int which[] = {
            RLIMIT_AS, RLIMIT_CORE, RLIMIT_CPU, RLIMIT_DATA, RLIMIT_FSIZE,
            RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE, RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_STACK,
        };
        struct rlimit limit = {0};
        for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
            getrlimit(which[i], &limit);
            add(state, &limit, sizeof limit);
        }
    }

    static void add_ids(struct state *state) {
        uid_t uids[3] = {0};
        gid_t gids[3] = {0}, groups[256];
        getresuid(&uids[0], &uids[1], &uids[2]);
        getresgid(&gids[0], &gids[1], &gids[2]);
        int count = getgroups(sizeof groups / sizeof *groups, groups);
        if (count < 0) { state->at = NULL; return; }  /* more groups than this takes */
        add(state, uids, sizeof uids);
        add(state, gids, sizeof gids);
        add_number(state, count);
        add(state, groups, (size_t)count * sizeof *groups);
    }

    static void add_prctl(struct state *state) {
        int number = 0;
        char name[16] = {0};
        prctl(PR_GET_PDEATHSIG, &number, 0L, 0L, 0L);
        add_number(state, number);
        prctl(PR_GET_CHILD_SUBREAPER, &number, 0L, 0L, 0L);
        add_number(state, number);
        prctl(PR_GET_NAME, name, 0L, 0L, 0L);
        add(state, name, sizeof name);
        add_number(state, prctl(PR_GET_DUMPABLE, 0L, 0L, 0L, 0L));
        add_number(state, prctl(PR_GET_NO_NEW_PRIVS, 0L, 0L, 0L, 0L));
    }

    static void add_timers(struct state *state) {
        static const int which[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
        struct itimerval timer = {0};
        for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
            getitimer(which[i], &timer);
            add_number(state, timer.it_value.tv_sec != 0 || timer.it_value.tv_usec != 0);
            add(state, &timer.it_interval, sizeof timer.it_interval);
        }
    }

    static void add_scheduling(struct state *state) {
        struct sched_param param = {0};
        cpu_set_t cpus;
        sigset_t blocked;
        memset(&cpus, 0, sizeof cpus);
        memset(&blocked, 0, sizeof blocked);
        errno = 0;
        add_number(state, getpriority(PRIO_PROCESS, 0));
        add_number(state, sched_getscheduler(0));
        sched_getparam(0, &param);
        add_number(state, param.sched_priority);
        if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) { state->at = NULL; return; }  /* more than 1024 CPUs */
        add(state, &cpus, sizeof cpus);
    #ifdef SYS_ioprio_get
        add_number(state, syscall(SYS_ioprio_get, 1L, 0L));
    #endif
        pthread_sigmask(SIG_BLOCK, NULL, &blocked);
        add(state, &blocked, sizeof blocked);
    }

    static void add_files(struct state *state, int oom_score_fd) {
        struct stat status;
        char score[16] = {0};
        mode_t mask = umask(0077);  /* it can be read only by setting it */
        umask(mask);
        add_number(state, mask);
        memset(&status, 0, sizeof status);
        add_number(state, fstat(0, &status));
        add(state, &status.st_dev, sizeof status.st_dev);
        add(state, &status.st_ino, sizeof status.st_ino);
        add(state, &status.st_rdev, sizeof status.st_rdev);
        if (oom_score_fd >= 0 && pread(oom_score_fd, score, sizeof score, 0) < 0) memset(score, 0, sizeof score);
        add(state, score, sizeof score);
    }

    static void add_text(struct state *state, const char *text) {
        if (text != NULL) add(state, text, strlen(text) + 1);
    }

    static void add_places(struct state *state) {
        time_t summer = SUMMER;
        struct tm there = {0};
        add_text(state, setlocale(LC_ALL, NULL));
        localtime_r(&summer, &there);
        add_number(state, there.tm_gmtoff);
        add_text(state, there.tm_zone);
        add_text(state, tzname[0]);
        add_text(state, tzname[1]);
    }

    /* Return how many bytes of `data` describe the process; 0: it does not fit. */
    static size_t state_bytes(char *data, int oom_score_fd) {
        struct state state = {data, data + STATE_BYTES};
        add_limits(&state);
        add_ids(&state);
        add_prctl(&state);
        add_timers(&state);
        add_scheduling(&state);
        add_files(&state, oom_score_fd);
        add_places(&state);
        return state.at == NULL ? 0 : (size_t)(state.at - data);
    }
    """
    enum: STATE_BYTES
    size_t state_bytes(char *data, int oom_score_fd)


def kernel_state(int oom_score_fd) -> bytes:
    """Return the state of this process; empty when it has more of something than fits.

    `oom_score_fd`: /proc/self/oom_score_adj opened for reading; -1 where there is none.
    """
    cdef char data[STATE_BYTES]
    return data[:state_bytes(data, oom_score_fd)]
