/* What the floor and the load generator both need of the operating system: the clock, descriptors, an end. */

#ifndef BENCH_SYSTEM_H
#define BENCH_SYSTEM_H

#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

/* What both sides offer unless told otherwise: the default priority string of mandos(8) and mandos-client(8mandos). */
#define PRIORITY "SECURE128:!CTYPE-X.509:+CTYPE-RAWPK:!RSA:!VERS-ALL:+VERS-TLS1.3:%PROFILE_ULTRA"

/* Nanoseconds that never step. */
static inline int64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* As many descriptors as the hard limit allows, and an end when whoever started us ends. */
static inline void settle(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
}

#endif
