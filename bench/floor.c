/*
 * The floor: a Mandos server with nothing but the wire protocol, as fast as C on GnuTLS does it.
 *
 *     floor ADDRESS PORT TABLE [PRIORITY]
 *
 * One thread, one epoll. TABLE has a line "KEYID SECRET-FILE" for each client. Per connection:
 *
 *     LINE       the peer sends a line whose first field is 1
 *     HANDSHAKE  TLS in which we are the client and the peer shows a raw public key (RFC 7250)
 *     SECRET     the peer's key ID, SHA-256 of its SubjectPublicKeyInfo, is in the table: its secret goes out
 *     BYE        close_notify and FIN
 *     DRAIN      whatever the peer still says is dropped until its FIN
 *
 * Each state is tried at once when the one before it is done, so that epoll is only asked when the socket has run dry.
 * A connection has LIMIT for all of it, and the oldest gives way when the descriptors are used up.
 */

#define _GNU_SOURCE
#include "system.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ID_BYTES = 32, LINE_BYTES = 256, EVENTS = 256 };
static const int64_t LIMIT = 30 * INT64_C(1000000000);

/* The table: open addressing, at most half full. */

struct client {
    unsigned char id[ID_BYTES];
    gnutls_datum_t secret; /* data is NULL in a free place */
};

static struct client *table;
static size_t places;

/* The place of a key ID, or the free one where it belongs. Key IDs are hashes already. */
static struct client *place_of(const unsigned char *id)
{
    size_t i;

    memcpy(&i, id, sizeof i);
    for (i &= places - 1; table[i].secret.data != NULL; i = (i + 1) & (places - 1))
        if (memcmp(table[i].id, id, ID_BYTES) == 0)
            break;
    return &table[i];
}

static void read_table(const char *path)
{
    char hex[2 * ID_BYTES + 1], name[4096];
    size_t lines = 0;
    FILE *file = fopen(path, "r");

    if (file == NULL)
        err(1, "%s", path);
    while (fscanf(file, "%64s %4095s", hex, name) == 2)
        lines++;
    for (places = 16; places < 2 * lines; places *= 2)
        ;
    table = calloc(places, sizeof *table);
    if (table == NULL)
        err(1, "table");
    rewind(file);
    while (fscanf(file, "%64s %4095s", hex, name) == 2) {
        unsigned char id[ID_BYTES];
        size_t size = sizeof id;
        gnutls_datum_t text = {(unsigned char *)hex, strlen(hex)};
        struct client *client;

        if (gnutls_hex_decode(&text, id, &size) < 0 || size != ID_BYTES)
            errx(1, "%s: not a key ID: %s", path, hex);
        client = place_of(id);
        memcpy(client->id, id, ID_BYTES);
        if (gnutls_load_file(name, &client->secret) < 0)
            errx(1, "cannot read %s", name);
    }
    fclose(file);
}

/* Connections, oldest first: the limit is the same for all, so that order is also the order of their ends. */

enum state { LINE, HANDSHAKE, SECRET, BYE, DRAIN, OVER };

struct connection {
    struct connection *older, *newer;
    int fd;
    enum state state;
    uint32_t watched; /* epoll's events; 0 before it knows the socket */
    int64_t end;
    gnutls_session_t session;
    const gnutls_datum_t *secret;
    size_t sent;
    size_t filled;
    char line[LINE_BYTES];
};

static struct connection ends = {.older = &ends, .newer = &ends};
static gnutls_certificate_credentials_t credentials;
static gnutls_priority_t priority;
static int poll_fd;

static void finish(struct connection *c)
{
    c->older->newer = c->newer;
    c->newer->older = c->older;
    if (c->session != NULL)
        gnutls_deinit(c->session);
    close(c->fd);
    free(c);
}

/* From here on a step returns true when it is done and the next state can be tried, false when it must wait or is over. */

static void wait_for(struct connection *c, uint32_t direction)
{
    struct epoll_event event = {.events = direction | EPOLLRDHUP | EPOLLET, .data.ptr = c};

    if (c->watched == event.events)
        return;
    if (epoll_ctl(poll_fd, c->watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &event) < 0)
        c->state = OVER;
    c->watched = event.events;
}

/* What a GnuTLS call said, when it was not success. */
static bool not_yet(struct connection *c, int code)
{
    if (code == GNUTLS_E_AGAIN)
        wait_for(c, gnutls_record_get_direction(c->session) == 1 ? EPOLLOUT : EPOLLIN);
    else if (gnutls_error_is_fatal(code)) {
        gnutls_alert_send_appropriate(c->session, code);
        c->state = OVER;
    }
    return false;
}

static bool begin_tls(struct connection *c)
{
    if (gnutls_init(&c->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_ENABLE_RAWPK | GNUTLS_NO_SIGNAL |
                                     GNUTLS_NO_TICKETS | GNUTLS_KEY_SHARE_TOP) < 0 ||
        gnutls_priority_set(c->session, priority) < 0 ||
        gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE, credentials) < 0) {
        c->state = OVER;
        return false;
    }
    gnutls_transport_set_int(c->session, c->fd);
    c->state = HANDSHAKE;
    return true;
}

/* Exactly "1" must be the first field of the line, and nothing may follow the line: the peer speaks after our hello. */
static bool read_line(struct connection *c)
{
    ssize_t got = recv(c->fd, c->line + c->filled, LINE_BYTES - c->filled, 0);
    const char *end, *field;

    if (got < 0 && errno == EAGAIN) {
        wait_for(c, EPOLLIN);
        return false;
    }
    if (got <= 0) {
        c->state = OVER;
        return false;
    }
    c->filled += (size_t)got;
    end = memchr(c->line, '\n', c->filled);
    if (end == NULL) {
        if (c->filled == LINE_BYTES)
            c->state = OVER;
        return c->state == LINE; /* read on until the socket is dry */
    }
    for (field = c->line; *field == ' ' || *field == '\t'; field++)
        ;
    if (*field != '1' || memchr(" \t\r\n", field[1], 4) == NULL || end + 1 != c->line + c->filled) {
        c->state = OVER;
        return false;
    }
    return begin_tls(c);
}

static bool shake_hands(struct connection *c)
{
    const gnutls_datum_t *key;
    unsigned char id[ID_BYTES];
    int code;

    do
        code = gnutls_handshake(c->session);
    while (code != GNUTLS_E_AGAIN && code < 0 && !gnutls_error_is_fatal(code));
    if (code < 0)
        return not_yet(c, code);
    c->state = OVER;
    if (gnutls_certificate_type_get2(c->session, GNUTLS_CTYPE_PEERS) != GNUTLS_CRT_RAWPK)
        return false;
    key = gnutls_certificate_get_peers(c->session, NULL);
    if (key == NULL || gnutls_hash_fast(GNUTLS_DIG_SHA256, key->data, key->size, id) < 0)
        return false;
    c->secret = &place_of(id)->secret;
    if (c->secret->data == NULL)
        return false;
    c->state = SECRET;
    return true;
}

static bool send_secret(struct connection *c)
{
    while (c->sent < c->secret->size) {
        ssize_t code = gnutls_record_send(c->session, c->secret->data + c->sent, c->secret->size - c->sent);

        if (code == GNUTLS_E_INTERRUPTED)
            continue;
        if (code < 0)
            return not_yet(c, (int)code);
        c->sent += (size_t)code;
    }
    c->state = BYE;
    return true;
}

static bool say_bye(struct connection *c)
{
    int code;

    do
        code = gnutls_bye(c->session, GNUTLS_SHUT_WR);
    while (code == GNUTLS_E_INTERRUPTED);
    if (code < 0)
        return not_yet(c, code);
    shutdown(c->fd, SHUT_WR);
    gnutls_deinit(c->session);
    c->session = NULL;
    c->state = DRAIN;
    return true;
}

static bool drain(struct connection *c)
{
    char scrap[4096];
    ssize_t got = recv(c->fd, scrap, sizeof scrap, 0);

    if (got < 0 && errno == EAGAIN)
        wait_for(c, EPOLLIN);
    else if (got <= 0)
        c->state = OVER;
    return got > 0;
}

static void advance(struct connection *c)
{
    static bool (*const steps[])(struct connection *) = {
        [LINE] = read_line, [HANDSHAKE] = shake_hands, [SECRET] = send_secret, [BYE] = say_bye, [DRAIN] = drain,
    };

    while (c->state != OVER && steps[c->state](c))
        ;
    if (c->state == OVER)
        finish(c);
}

static void accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct connection *c;

        if (fd < 0 && (errno == EMFILE || errno == ENFILE) && ends.newer != &ends) {
            finish(ends.newer);
            continue;
        }
        if (fd < 0)
            return;
        c = malloc(sizeof *c);
        if (c == NULL) {
            close(fd);
            return;
        }
        c->fd = fd;
        c->state = LINE;
        c->watched = 0;
        c->end = now() + LIMIT;
        c->session = NULL;
        c->secret = NULL;
        c->sent = c->filled = 0;
        c->newer = &ends;
        c->older = ends.older;
        c->older->newer = ends.older = c;
        advance(c);
    }
}

/* TCP_NODELAY is inherited by what the listener accepts. */
static int listen_at(const char *address, const char *port)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1, off = 0;

    if (inet_pton(AF_INET6, address, &at.sin6_addr) != 1)
        errx(2, "not an IPv6 address: %s", address);
    if (fd < 0 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, SOMAXCONN) < 0)
        err(1, "[%s]:%s", address, port);
    return fd;
}

/* Milliseconds until the oldest connection has used up its time. */
static int patience(void)
{
    int64_t left;

    if (ends.newer == &ends)
        return -1;
    left = ends.newer->end - now();
    return left <= 0 ? 0 : (int)(left / 1000000) + 1;
}

int main(int argc, char **argv)
{
    struct epoll_event events[EVENTS] = {{.events = EPOLLIN}};
    const char *position;
    int listener;

    if (argc < 4 || argc > 5)
        errx(2, "usage: floor ADDRESS PORT TABLE [PRIORITY]");
    settle();
    read_table(argv[3]);
    if (gnutls_priority_init(&priority, argc == 5 ? argv[4] : PRIORITY, &position) < 0)
        errx(2, "bad priority string at: %s", position);
    if (gnutls_certificate_allocate_credentials(&credentials) < 0)
        errx(1, "no credentials");
    listener = listen_at(argv[1], argv[2]);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poll_fd < 0 || epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &events[0]) < 0)
        err(1, "epoll");
    for (;;) {
        bool arrivals = false;
        int i, n = epoll_wait(poll_fd, events, EVENTS, patience());

        if (n < 0 && errno != EINTR)
            err(1, "epoll_wait");
        for (i = 0; i < n; i++)
            if (events[i].data.ptr == NULL)
                arrivals = true;
            else
                advance(events[i].data.ptr);
        while (ends.newer != &ends && ends.newer->end <= now())
            finish(ends.newer);
        if (arrivals) /* last, since it may end connections that this round's events name */
            accept_all(listener);
    }
}
