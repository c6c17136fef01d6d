/*
 * The load generator: many Mandos clients in one process, one thread and one epoll.
 *
 *     load deliver ADDRESS PORT KEYS [OPTION...]    fetch secrets and compare every byte
 *     load idle ADDRESS PORT [OPTION...]            open connections that stall, and hold them
 *
 * It prints one line of JSON for each thing that it has to say; README.md lists them with the options.
 *
 * A client that fetches connects, says "1\r\n", is the server of a TLS session in which it shows its raw public key
 * (RFC 7250), reads until close_notify and compares. Its latency runs from connect() to close_notify.
 */

#define _GNU_SOURCE
#include "system.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_CONCURRENT = 1024, MOST_IDLE = 100000, MOST_TOTAL = 10000000, EVENTS = 256, CHUNK = 16384 };
static const int64_t SECOND = INT64_C(1000000000);

static struct sockaddr_storage target;
static socklen_t target_size;
static long sources;
static const char *priority_string = PRIORITY;
static int poll_fd;

/* Connecting. */

static void aim(const char *address, const char *port)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&target;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&target;

    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)atoi(port));
        target_size = sizeof *v4;
    } else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)atoi(port));
        target_size = sizeof *v6;
    } else
        errx(2, "not an address: %s", address);
    if (sources > 0 && target.ss_family != AF_INET)
        errx(2, "--sources needs an IPv4 address: only 127.0.0.0/8 has many addresses without set-up");
}

/* A socket on its way to the target, the n-th from 127.1.0.1 + n modulo --sources; -1 with errno if there is none. */
static int set_out(long n)
{
    int on = 1, fd = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in from = {.sin_family = AF_INET};

    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (sources > 0) {
        from.sin_addr.s_addr = htonl(0x7f010001 + (uint32_t)(n % sources));
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    }
    if ((sources > 0 && bind(fd, (struct sockaddr *)&from, sizeof from) < 0) ||
        (connect(fd, (struct sockaddr *)&target, target_size) < 0 && errno != EINPROGRESS)) {
        int reason = errno;

        close(fd);
        errno = reason;
        return -1;
    }
    return fd;
}

static void watch(int operation, int fd, uint32_t direction, void *subject)
{
    struct epoll_event event = {.events = direction | EPOLLRDHUP, .data.ptr = subject};

    if (epoll_ctl(poll_fd, operation, fd, &event) < 0)
        err(1, "epoll_ctl");
}

/* Keys: each with the secret that the server must send. */

struct key {
    gnutls_certificate_credentials_t credentials;
    gnutls_datum_t secret;
};

static struct key *keys;
static long key_count;

/* Lines "PRIVATE-KEY PUBLIC-KEY SECRET": two PEM files and a file of any bytes. */
static void read_keys(const char *path)
{
    char names[3][1024];
    FILE *file = fopen(path, "r");

    if (file == NULL)
        err(1, "%s", path);
    while (fscanf(file, "%1023s %1023s %1023s", names[0], names[1], names[2]) == 3) {
        struct key *key;
        int code;

        keys = realloc(keys, (size_t)(key_count + 1) * sizeof *keys);
        if (keys == NULL)
            err(1, "keys");
        key = &keys[key_count++];
        if (gnutls_load_file(names[2], &key->secret) < 0)
            errx(1, "cannot read %s", names[2]);
        code = gnutls_certificate_allocate_credentials(&key->credentials);
        if (code == 0)
            code = gnutls_certificate_set_rawpk_key_file(key->credentials, names[1], names[0], GNUTLS_X509_FMT_PEM, NULL,
                                                         0, NULL, 0, 0, 0);
        if (code < 0)
            errx(1, "%s: %s", names[0], gnutls_strerror(code));
    }
    fclose(file);
    if (key_count == 0)
        errx(1, "%s: no keys", path);
}

/* Fetching. */

enum outcome { CONNECT, RESET, HANDSHAKE, REFUSED, TRUNCATED, WRONG, TIMEOUT, OUTCOMES };
static const char *const outcome_names[] = {
    [CONNECT] = "connect",     [RESET] = "reset", [HANDSHAKE] = "handshake", [REFUSED] = "refused",
    [TRUNCATED] = "truncated", [WRONG] = "wrong", [TIMEOUT] = "timeout",
};

enum step { FREE, CONNECTING, SHAKING, READING };

struct visit {
    enum step step;
    int fd;
    uint32_t watched;
    int64_t begun;
    const struct key *key;
    gnutls_session_t session;
    size_t got;
    bool wrong;
};

static gnutls_priority_t priority;
static double *latencies;
static long delivered, failed[OUTCOMES], begun;

static void leave(struct visit *v)
{
    if (v->session != NULL)
        gnutls_deinit(v->session);
    v->session = NULL;
    close(v->fd);
    v->step = FREE;
}

static void fail(struct visit *v, enum outcome outcome)
{
    failed[outcome]++;
    leave(v);
}

static void start(struct visit *v)
{
    memset(v, 0, sizeof *v);
    v->begun = now();
    v->key = &keys[begun % key_count];
    v->fd = set_out(begun++);
    if (v->fd < 0) {
        failed[CONNECT]++;
        return;
    }
    v->step = CONNECTING;
    v->watched = EPOLLOUT;
    watch(EPOLL_CTL_ADD, v->fd, v->watched, v);
}

static void need(struct visit *v)
{
    uint32_t direction = gnutls_record_get_direction(v->session) == 1 ? EPOLLOUT : EPOLLIN;

    if (direction != v->watched)
        watch(EPOLL_CTL_MOD, v->fd, v->watched = direction, v);
}

static bool greet(struct visit *v)
{
    int error = 0;
    socklen_t size = sizeof error;

    if (getsockopt(v->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0) {
        fail(v, CONNECT);
        return false;
    }
    if (send(v->fd, "1\r\n", 3, MSG_NOSIGNAL) != 3) {
        fail(v, RESET);
        return false;
    }
    if (gnutls_init(&v->session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_ENABLE_RAWPK | GNUTLS_NO_SIGNAL |
                                     GNUTLS_NO_TICKETS) < 0 ||
        gnutls_priority_set(v->session, priority) < 0 ||
        gnutls_credentials_set(v->session, GNUTLS_CRD_CERTIFICATE, v->key->credentials) < 0)
        errx(1, "no TLS session");
    gnutls_transport_set_int(v->session, v->fd);
    v->step = SHAKING;
    return true;
}

static bool shake_hands(struct visit *v)
{
    int code;

    do
        code = gnutls_handshake(v->session);
    while (code < 0 && code != GNUTLS_E_AGAIN && !gnutls_error_is_fatal(code));
    if (code == GNUTLS_E_AGAIN)
        need(v);
    else if (code < 0)
        fail(v, code == GNUTLS_E_PULL_ERROR || code == GNUTLS_E_PUSH_ERROR ? RESET : HANDSHAKE);
    else
        v->step = READING;
    return code == 0;
}

static void arrive(struct visit *v)
{
    if (v->wrong || v->got != v->key->secret.size) {
        fail(v, WRONG);
        return;
    }
    latencies[delivered++] = (double)(now() - v->begun) / 1e6;
    gnutls_bye(v->session, GNUTLS_SHUT_WR);
    leave(v);
}

static bool read_on(struct visit *v)
{
    static unsigned char chunk[CHUNK];
    ssize_t got = gnutls_record_recv(v->session, chunk, sizeof chunk);

    if (got == GNUTLS_E_AGAIN)
        need(v);
    else if (got == 0 && v->got == 0)
        fail(v, REFUSED);
    else if (got == 0)
        arrive(v);
    else if (got < 0 && gnutls_error_is_fatal((int)got))
        fail(v, v->got == 0 ? REFUSED : TRUNCATED);
    else if (got > 0) {
        size_t expected = v->key->secret.size;

        if (v->got + (size_t)got > expected || memcmp(v->key->secret.data + v->got, chunk, (size_t)got) != 0)
            v->wrong = true;
        v->got += (size_t)got;
        if (v->got > expected) { /* no end of wrong bytes is of interest */
            fail(v, WRONG);
            return false;
        }
    }
    return v->step == READING && got != GNUTLS_E_AGAIN;
}

static void advance(struct visit *v)
{
    static bool (*const steps[])(struct visit *) = {
        [CONNECTING] = greet,
        [SHAKING] = shake_hands,
        [READING] = read_on,
    };

    while (v->step != FREE && steps[v->step](v))
        ;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The latency that `part` of all deliveries did not exceed, in milliseconds. */
static double quantile(double part)
{
    long rank = (long)(part * (double)delivered);

    if (delivered == 0)
        return 0;
    return latencies[rank < delivered ? rank : delivered - 1];
}

static long failures(void)
{
    long sum = 0;
    int i;

    for (i = 0; i < OUTCOMES; i++)
        sum += failed[i];
    return sum;
}

static int deliver(long concurrent, long total, int64_t patience)
{
    struct visit *visits = calloc((size_t)concurrent, sizeof *visits);
    struct epoll_event events[EVENTS];
    int64_t first = now(), swept = first;
    const char *position, *separator = "";
    long i;

    latencies = malloc((size_t)total * sizeof *latencies);
    if (visits == NULL || latencies == NULL)
        err(1, "visits");
    if (gnutls_priority_init(&priority, priority_string, &position) < 0)
        errx(2, "bad priority string at: %s", position);
    first = now();
    while (delivered + failures() < total) {
        int64_t time = now();
        bool sweep = time - swept > SECOND / 4;
        int n;

        for (i = 0; i < concurrent; i++) {
            if (sweep && visits[i].step != FREE && time - visits[i].begun > patience)
                fail(&visits[i], TIMEOUT);
            if (visits[i].step == FREE && begun < total)
                start(&visits[i]);
        }
        if (sweep)
            swept = time;
        n = epoll_wait(poll_fd, events, EVENTS, 250);
        for (i = 0; i < n; i++)
            advance(events[i].data.ptr);
    }
    qsort(latencies, (size_t)delivered, sizeof *latencies, ascending);
    printf("{\"deliveries\": %ld, \"failures\": %ld, \"reasons\": {", delivered, failures());
    for (i = 0; i < OUTCOMES; i++)
        if (failed[i] > 0) {
            printf("%s\"%s\": %ld", separator, outcome_names[i], failed[i]);
            separator = ", ";
        }
    printf("}, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, \"wall_s\": %.3f}\n", quantile(0.50), quantile(0.99),
           quantile(1.0), (double)(now() - first) / 1e9);
    return failures() == 0 ? 0 : 1;
}

/* Stalling. */

enum stall { NOTHING, HALF_LINE, ONLY_LINE, HALF_RECORD };
static const char *const stall_names[] = {
    [NOTHING] = "nothing", [HALF_LINE] = "half-line", [ONLY_LINE] = "line", [HALF_RECORD] = "half-record", NULL,
};

struct idler {
    int fd; /* -1 when it is over */
    bool connected, answered;
    int64_t begun;
    double lasted;
};

static struct idler *idlers;
static long opened, answers, refused, closed;

static void lose(struct idler *d)
{
    d->lasted = (double)(now() - d->begun) / 1e9;
    if (d->connected)
        closed++;
    else
        refused++;
    close(d->fd);
    d->fd = -1;
}

static void stir(struct idler *d, uint32_t events, enum stall stall)
{
    static const char half_record[] = "\x16\x03\x03\x00\x7a\x02";
    char scrap[4096];
    ssize_t got;

    if (!d->connected) {
        if (events & (EPOLLERR | EPOLLHUP)) {
            lose(d);
            return;
        }
        d->connected = true;
        opened++;
        if (stall != NOTHING && send(d->fd, "1\r\n", stall == HALF_LINE ? 1 : 3, MSG_NOSIGNAL) < 0) {
            lose(d);
            return;
        }
        watch(EPOLL_CTL_MOD, d->fd, EPOLLIN, d);
        return;
    }
    got = recv(d->fd, scrap, sizeof scrap, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) {
        lose(d);
        return;
    }
    if (got > 0 && !d->answered) {
        d->answered = true;
        answers++;
        if (stall == HALF_RECORD && send(d->fd, half_record, sizeof half_record - 1, MSG_NOSIGNAL) < 0)
            lose(d);
    }
}

/* How long the server let them be, in seconds, among those that it closed. */
static void tell_idlers(const char *event, long count, int64_t first)
{
    double shortest = 0, longest = 0;
    bool any = false;
    long i;

    for (i = 0; i < count; i++)
        if (idlers[i].fd < 0 && idlers[i].connected) {
            if (!any || idlers[i].lasted < shortest)
                shortest = idlers[i].lasted;
            if (!any || idlers[i].lasted > longest)
                longest = idlers[i].lasted;
            any = true;
        }
    printf("{\"event\": \"%s\", \"opened\": %ld, \"refused\": %ld, \"answered\": %ld, \"closed\": %ld, \"open\": %ld, "
           "\"shortest_s\": %.3f, \"longest_s\": %.3f, \"wall_s\": %.3f}\n",
           event, opened, refused, answers, closed, opened - closed, shortest, longest, (double)(now() - first) / 1e9);
    fflush(stdout);
}

/* What is said on standard input: false when there is no more. */
static bool hear(void)
{
    char scrap[64];

    return read(STDIN_FILENO, scrap, sizeof scrap) > 0;
}

static int idle(long count, enum stall stall, int64_t patience)
{
    struct epoll_event events[EVENTS], input = {.events = EPOLLIN, .data.ptr = NULL};
    int64_t first = now();
    bool told = false, ended = false;
    long i, next = 0;

    idlers = calloc((size_t)count, sizeof *idlers);
    if (idlers == NULL)
        err(1, "idlers");
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &input) < 0)
        err(1, "standard input must be a pipe or a terminal");
    /* Until the end of the input, the end of the time, or the end of the last connection. */
    while (!ended && now() - first < patience && (next < count || closed + refused < count)) {
        int n;

        /* No more at a time than the listen queue of a sleepy server takes. */
        for (; next < count && next - opened - refused < 128; next++) {
            struct idler *d = &idlers[next];

            d->begun = now();
            d->fd = set_out(next);
            if (d->fd < 0)
                refused++;
            else
                watch(EPOLL_CTL_ADD, d->fd, EPOLLOUT, d);
        }
        n = epoll_wait(poll_fd, events, EVENTS, 250);
        for (i = 0; i < n; i++)
            if (events[i].data.ptr != NULL)
                stir(events[i].data.ptr, events[i].events, stall);
        if (n == 1 && events[0].data.ptr == NULL) { /* heard only when nothing else has happened, so that we know all */
            ended = !hear();
            if (!ended)
                tell_idlers("holding", count, first);
        }
        if (!told && opened + refused == count &&
            (stall == NOTHING || stall == HALF_LINE || answers >= opened - closed)) {
            tell_idlers("holding", count, first);
            told = true;
        }
    }
    tell_idlers("end", count, first);
    return 0;
}

/* The command line. */

static long number(const char *option, const char *text, long most)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (*text == '\0' || *end != '\0' || value < 1 || value > most)
        errx(2, "--%s: a number from 1 to %ld, not %s", option, most, text);
    return value;
}

static enum stall named_stall(const char *text)
{
    int i;

    for (i = 0; stall_names[i] != NULL; i++)
        if (strcmp(text, stall_names[i]) == 0)
            return (enum stall)i;
    errx(2, "--stall: nothing, half-line, line or half-record, not %s", text);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"concurrent", required_argument, NULL, 'c'}, {"total", required_argument, NULL, 'n'},
        {"sources", required_argument, NULL, 's'},    {"timeout", required_argument, NULL, 't'},
        {"stall", required_argument, NULL, 'S'},      {"priority", required_argument, NULL, 'P'},
        {NULL, 0, NULL, 0},
    };
    long concurrent = 1, total = 1, seconds = 60;
    enum stall stall = NOTHING;
    bool delivers;
    int option, index = 0;

    while ((option = getopt_long(argc, argv, "", options, &index)) != -1) {
        switch (option) {
        case 'c': concurrent = number("concurrent", optarg, MOST_CONCURRENT); break;
        case 'n': total = number("total", optarg, MOST_TOTAL); break;
        case 's': sources = number("sources", optarg, 65536); break;
        case 't': seconds = number("timeout", optarg, 3600); break;
        case 'S': stall = named_stall(optarg); break;
        case 'P': priority_string = optarg; break;
        default: return 2;
        }
    }
    argv += optind;
    argc -= optind;
    delivers = argc == 4 && strcmp(argv[0], "deliver") == 0;
    if (!delivers && !(argc == 3 && strcmp(argv[0], "idle") == 0))
        errx(2, "usage: load deliver ADDRESS PORT KEYS | idle ADDRESS PORT, and options; see README.md");
    settle();
    aim(argv[1], argv[2]);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poll_fd < 0)
        err(1, "epoll");
    if (!delivers)
        return idle(total < MOST_IDLE ? total : MOST_IDLE, stall, seconds * SECOND);
    read_keys(argv[3]);
    return deliver(concurrent < total ? concurrent : total, total, seconds * SECOND);
}
