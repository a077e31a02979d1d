/* relay_generator.c -- many Socket.IO clients in one process, two in a call, and what relaying costs.
 *
 * In:   arguments, see main(); on stdin one line a pair: TOKEN TOKEN ROOM.
 * Out:  one JSON line a figure on stdout. CPU is that of the server's process, from its CPU clock, so
 *       that it holds on a machine that does other things, too.
 * State: the connections. Blocks: in epoll_wait only. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CANDIDATE_BYTES 600 /* of a whole Socket.IO packet */
#define IN_FLIGHT 64        /* connections and calls being set up at a time */
#define STAMPS 64           /* messages of one connection under way */
#define BATCH 256
#define IN_BYTES 16384
#define HIST_US 2000000 /* latencies are counted by the microsecond up to here */
#define PATIENCE_MS 20000
#define NS 1000000000u

enum state { NEW, HTTP, OPEN, JOINING, READY, INITIATING, ANSWERING, IN_CALL };

struct conn {
    int fd;
    enum state state;
    struct conn *peer;
    char token[128], room[128], call_id[64];
    char *frame; /* the candidate, framed and masked once */
    size_t frame_n;
    char *in;
    size_t in_n;
    unsigned left; /* messages it may still send in this phase */
    uint64_t stamps[STAMPS];
    unsigned sent, got; /* of its own messages: sent, seen at the peer */
};

static struct {
    struct conn *conns;
    size_t n;
    int ep;
    uint16_t port;
    pid_t pid;
    const char *label;
    unsigned seconds;
    size_t ready, in_call; /* how many have come that far */
    bool echo;             /* closed loop: what is delivered makes its sender send the next one */
    uint64_t delivered;
    uint32_t *hist;
} g;

static const char sdp[] = "v=0\\r\\no=- 1 2 IN IP4 127.0.0.1\\r\\ns=-\\r\\nt=0 0\\r\\nm=audio 9 "
                          "UDP/TLS/RTP/SAVPF 111\\r\\nc=IN IP4 0.0.0.0\\r\\na=mid:0\\r\\n";

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
    va_list ap;

    fputs("relay_generator: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

/* --- the server's process --------------------------------------------------------------------- */

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;

    if (clock_gettime(clock, &t) != 0)
        die("no clock: errno %d", errno);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static uint64_t server_cpu_ns(void)
{
    clockid_t clock;

    if (clock_getcpuclockid(g.pid, &clock) != 0)
        die("process %d has no CPU clock", (int)g.pid);
    return now_ns(clock);
}

static long server_rss_bytes(void)
{
    char path[64];
    long pages = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/statm", (int)g.pid);
    f = fopen(path, "r");
    if (!f || fscanf(f, "%*d %ld", &pages) != 1)
        die("%s cannot be read", path);
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* --- frames ----------------------------------------------------------------------------------- */

/** Frame @p text as clients must, masked.
 * @param out  room for text and 8 bytes more. @return its length */
static size_t frame(char *out, const char *text, size_t n)
{
    unsigned char mask[4] = {0};
    size_t at = 2;

    if (getrandom(mask, sizeof(mask), 0) != (ssize_t)sizeof(mask))
        die("no random bytes");
    out[0] = (char)0x81;
    if (n < 126) {
        out[1] = (char)(0x80 | n);
    } else {
        out[1] = (char)(0x80 | 126);
        out[2] = (char)(n >> 8);
        out[3] = (char)(n & 255);
        at = 4;
    }
    memcpy(out + at, mask, sizeof(mask));
    at += sizeof(mask);
    for (size_t i = 0; i < n; i++)
        out[at + i] = (char)((unsigned char)text[i] ^ mask[i % 4]);
    return at + n;
}

static void push(const struct conn *c, const char *p, size_t n)
{
    if (send(c->fd, p, n, MSG_NOSIGNAL) != (ssize_t)n)
        die("the server takes no more from connection %zu: errno %d", (size_t)(c - g.conns), errno);
}

__attribute__((format(printf, 2, 3))) static void say(const struct conn *c, const char *fmt, ...)
{
    char text[1024], framed[sizeof(text) + 8];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(text))
        die("a packet is too long");
    push(c, framed, frame(framed, text, (size_t)n));
}

static void prepare_candidate(struct conn *c)
{
    char text[CANDIDATE_BYTES + 1], tail[] = "\",\"sdpMid\":\"0\",\"sdpMLineIndex\":0}}]";
    int n = snprintf(text, sizeof(text),
                     "42[\"ice-candidate\",{\"callId\":\"%s\",\"candidate\":{\"candidate\":\""
                     "candidate:1 1 udp 2122260223 192.0.2.1 54321 typ host generation 0 ufrag abcd network-id 1 ",
                     c->call_id);

    while ((size_t)n + sizeof(tail) - 1 < CANDIDATE_BYTES)
        text[n++] = 'x';
    memcpy(text + n, tail, sizeof(tail));
    c->frame = malloc(CANDIDATE_BYTES + 16);
    if (!c->frame)
        die("out of memory");
    c->frame_n = frame(c->frame, text, (size_t)n + sizeof(tail) - 1);
}

/* --- what a connection does --------------------------------------------------------------------- */

/** @param due_ns  when it was to be sent: waiting for our own turn counts, too */
static void send_candidate(struct conn *c, uint64_t due_ns)
{
    if (c->left == 0 || c->sent - c->got == STAMPS)
        return;
    c->left--;
    c->stamps[c->sent++ % STAMPS] = due_ns;
    push(c, c->frame, c->frame_n);
}

static void on_candidate(struct conn *sender)
{
    uint64_t now = now_ns(CLOCK_MONOTONIC), us;

    if (sender->got == sender->sent)
        die("a candidate arrived that was never sent");
    us = (now - sender->stamps[sender->got++ % STAMPS]) / 1000;
    g.hist[us < HIST_US ? us : HIST_US - 1]++;
    g.delivered++;
    if (g.echo)
        send_candidate(sender, now);
}

/* An ack of call-initiate: both learn the id, and the other one answers. */
static void on_initiated(struct conn *c, const char *text)
{
    const char *id = strstr(text, "\"callId\":\"");

    if (strncmp(text, "431[{\"ok\":true", 14) != 0 || !id)
        die("call-initiate: %.300s", text);
    snprintf(c->call_id, sizeof(c->call_id), "%.*s", (int)strcspn(id + 10, "\""), id + 10);
    snprintf(c->peer->call_id, sizeof(c->peer->call_id), "%s", c->call_id);
    c->state = IN_CALL;
    c->peer->state = ANSWERING;
    say(c->peer, "422[\"call-answer\",{\"callId\":\"%s\",\"answer\":{\"type\":\"answer\",\"sdp\":\"%s\"}}]",
        c->call_id, sdp);
}

static void on_answered(struct conn *c, const char *text)
{
    if (strncmp(text, "432[{\"ok\":true", 14) != 0)
        die("call-answer: %.300s", text);
    c->state = IN_CALL;
    g.in_call++;
    for (int i = 0; i < 2; i++, c = c->peer) {
        say(c, "42[\"call-connected\",{\"callId\":\"%s\"}]", c->call_id);
        prepare_candidate(c);
    }
}

static void on_text(struct conn *c, char *text, size_t n)
{
    if (n == 1 && text[0] == '2') {
        say(c, "3");
    } else if (strncmp(text, "42[\"ice-candidate\"", 18) == 0) {
        on_candidate(c->peer);
    } else if (strncmp(text, "42[\"call-error\"", 15) == 0) {
        die("%.300s", text);
    } else if (c->state == OPEN) {
        c->state = JOINING;
        say(c, "40{\"token\":\"%s\"}", c->token);
    } else if (c->state == JOINING) {
        if (strncmp(text, "40{", 3) != 0)
            die("CONNECT: %.300s", text);
        c->state = READY;
        g.ready++;
    } else if (c->state == INITIATING && strncmp(text, "43", 2) == 0) {
        on_initiated(c, text);
    } else if (c->state == ANSWERING && strncmp(text, "43", 2) == 0) {
        on_answered(c, text);
    }
}

/** @return bytes used of the frame at the start of c->in, 0 when more are needed */
static size_t take_frame(struct conn *c, size_t at)
{
    unsigned char *p = (unsigned char *)c->in + at;
    size_t left = c->in_n - at, head = 2, n;

    if (left < head)
        return 0;
    n = p[1] & 127;
    if (n == 126) {
        head = 4;
        if (left < head)
            return 0;
        n = (size_t)p[2] << 8 | p[3];
    } else if (n == 127) {
        die("a frame is larger than anything expected");
    }
    if (left < head + n)
        return 0;
    if (p[0] == 0x81) {
        char after = c->in[at + head + n]; /* there is always a byte more */

        c->in[at + head + n] = '\0';
        on_text(c, c->in + at + head, n);
        c->in[at + head + n] = after;
    } else if (p[0] == 0x88) {
        die("the server closed connection %zu in state %d", (size_t)(c - g.conns), (int)c->state);
    }
    return head + n;
}

static size_t take_http(struct conn *c)
{
    char *end;

    c->in[c->in_n] = '\0';
    end = strstr(c->in, "\r\n\r\n");
    if (!end)
        return 0;
    if (strncmp(c->in, "HTTP/1.1 101", 12) != 0)
        die("handshake: %.60s", c->in);
    c->state = OPEN;
    return (size_t)(end - c->in) + 4;
}

static void on_readable(struct conn *c)
{
    ssize_t n = recv(c->fd, c->in + c->in_n, IN_BYTES - c->in_n - 1, 0);
    size_t at = 0, used;

    if (n <= 0) {
        if (n < 0 && errno == EAGAIN)
            return;
        die("connection %zu ended in state %d", (size_t)(c - g.conns), (int)c->state);
    }
    c->in_n += (size_t)n;
    while (at < c->in_n && (used = c->state == HTTP ? take_http(c) : take_frame(c, at)) > 0)
        at += used;
    c->in_n -= at;
    if (at && c->in_n)
        memmove(c->in, c->in + at, c->in_n);
    if (c->in_n >= IN_BYTES - 1)
        die("a packet is larger than anything expected");
}

static int serve(int64_t wait_ns)
{
    struct epoll_event ev[BATCH];
    struct timespec wait = {wait_ns / NS, wait_ns % NS};
    int n = epoll_pwait2(g.ep, ev, BATCH, &wait, NULL);

    for (int i = 0; i < n; i++)
        on_readable(ev[i].data.ptr);
    return n;
}

/* --- setting up --------------------------------------------------------------------------------- */

static void dial(struct conn *c)
{
    static const char hello[] = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n"
                                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(g.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    const int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    c->in = malloc(IN_BYTES);
    if (c->fd < 0 || !c->in || connect(c->fd, (struct sockaddr *)&to, sizeof(to)) != 0)
        die("connection %zu: errno %d", (size_t)(c - g.conns), errno);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->state = HTTP;
    push(c, hello, sizeof(hello) - 1);
    if (epoll_ctl(g.ep, EPOLL_CTL_ADD, c->fd, &ev) != 0)
        die("epoll: errno %d", errno);
}

/** Serve until @p count has reached @p want, or nothing has happened for PATIENCE_MS. */
static void await(const size_t *count, size_t want, const char *what)
{
    while (*count < want) {
        if (serve((int64_t)PATIENCE_MS * 1000000) <= 0)
            die("%s: %zu of %zu, and nothing happens any more", what, *count, want);
    }
}

static void connect_up_to(size_t n)
{
    static size_t dialled;

    for (; dialled < n; dialled++) {
        if (dialled >= IN_FLIGHT)
            await(&g.ready, dialled - IN_FLIGHT + 1, "connections");
        dial(&g.conns[dialled]);
    }
    await(&g.ready, n, "connections");
}

static void begin_calls(void)
{
    for (size_t i = 0; i < g.n / 2; i++) {
        struct conn *c = &g.conns[2 * i];

        if (i >= IN_FLIGHT)
            await(&g.in_call, i - IN_FLIGHT + 1, "calls");
        c->state = INITIATING;
        say(c, "421[\"call-initiate\",{\"roomId\":\"%s\",\"callType\":\"audio\","
               "\"offer\":{\"type\":\"offer\",\"sdp\":\"%s\"}}]",
            c->room, sdp);
    }
    await(&g.in_call, g.n / 2, "calls");
}

static void read_pairs(void)
{
    char line[512];
    size_t cap = 0;

    while (fgets(line, sizeof(line), stdin)) {
        if (g.n + 2 > cap) {
            cap = cap ? cap * 2 : 256;
            g.conns = realloc(g.conns, cap * sizeof(*g.conns));
            if (!g.conns)
                die("out of memory");
        }
        struct conn *a = &g.conns[g.n], *b = a + 1;
        memset(a, 0, 2 * sizeof(*a));
        if (sscanf(line, "%127s %127s %127s", a->token, b->token, a->room) != 3)
            die("line %zu is no pair", g.n / 2 + 1);
        g.n += 2;
    }
    for (size_t i = 0; i < g.n; i++)
        g.conns[i].peer = &g.conns[i ^ 1];
    if (g.n < 2)
        die("no pairs");
}

/* --- phases ------------------------------------------------------------------------------------- */

static double percentile_ms(double share)
{
    uint64_t total = 0, sum = 0;

    for (size_t i = 0; i < HIST_US; i++)
        total += g.hist[i];
    for (size_t i = 0; i < HIST_US; i++) {
        sum += g.hist[i];
        if (total && (double)sum >= share * (double)total)
            return (double)i / 1000;
    }
    return 0;
}

static void forget_figures(void)
{
    g.delivered = 0;
    memset(g.hist, 0, HIST_US * sizeof(*g.hist));
}

static void report(const char *phase, uint64_t took_ns, uint64_t cpu_ns)
{
    double seconds = (double)took_ns / NS;

    printf("{\"server\":\"%s\",\"phase\":\"%s\",\"sockets\":%zu,\"delivered\":%llu,\"per_second\":%.0f,"
           "\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"cpu_s_per_100k\":%.3f,\"rss_kb\":%ld}\n",
           g.label, phase, g.n, (unsigned long long)g.delivered, (double)g.delivered / seconds,
           percentile_ms(0.5), percentile_ms(0.99), (double)cpu_ns / 1e4 / (double)g.delivered,
           server_rss_bytes() / 1024);
    fflush(stdout);
}

static void allow(unsigned each)
{
    for (size_t i = 0; i < g.n; i++)
        g.conns[i].left = each;
}

/** No more is sent; wait for what is under way. */
static void settle(void)
{
    bool waiting = true;

    allow(0);
    while (waiting) {
        waiting = false;
        for (size_t i = 0; i < g.n && !waiting; i++)
            waiting = g.conns[i].got != g.conns[i].sent;
        if (waiting && serve((int64_t)PATIENCE_MS * 1000000) <= 0)
            die("candidates were lost");
    }
}

/** One message a connection under way. @param each  how many of each; 0: for g.seconds, after a second */
static void closed_loop(const char *phase, unsigned each)
{
    uint64_t begun = now_ns(CLOCK_MONOTONIC), cpu = server_cpu_ns(), now = begun;
    uint64_t warm = each ? 0 : NS, until = each ? UINT64_MAX : begun + warm + (uint64_t)g.seconds * NS;

    forget_figures();
    allow(each ? each : UINT32_MAX);
    g.echo = true;
    for (size_t i = 0; i < g.n; i++)
        send_candidate(&g.conns[i], now_ns(CLOCK_MONOTONIC));
    while (each ? g.delivered < (uint64_t)each * g.n : now < until) {
        if (serve((int64_t)PATIENCE_MS * 1000000) <= 0)
            die("%s: nothing is delivered any more", phase);
        now = now_ns(CLOCK_MONOTONIC);
        if (warm && now - begun >= warm) {
            warm = 0;
            begun = now;
            cpu = server_cpu_ns();
            forget_figures();
        }
    }
    report(phase, now_ns(CLOCK_MONOTONIC) - begun, server_cpu_ns() - cpu);
    settle();
}

/** So many messages a second, whatever comes of them, one connection after the other. It does not sleep
 * in between: waking a process on the same machine would be charged to the server. */
static void open_loop(const char *phase, unsigned rate)
{
    uint64_t begun = now_ns(CLOCK_MONOTONIC), cpu = server_cpu_ns(), total = (uint64_t)rate * g.seconds;

    forget_figures();
    allow(UINT32_MAX);
    g.echo = false;
    for (uint64_t i = 0; i < total;) {
        uint64_t due = begun + i * NS / rate, now = now_ns(CLOCK_MONOTONIC);

        if (now >= due)
            send_candidate(&g.conns[i++ % g.n], due);
        serve(0);
    }
    settle();
    report(phase, now_ns(CLOCK_MONOTONIC) - begun, server_cpu_ns() - cpu);
}

/** What the second half of the connections costs: the first half pays for what a server makes once. */
static void measure_idle(void)
{
    size_t first = g.n / 2;
    long before, after;
    uint64_t cpu;

    connect_up_to(first);
    before = server_rss_bytes();
    connect_up_to(g.n);
    after = server_rss_bytes();
    cpu = server_cpu_ns();
    for (uint64_t begun = now_ns(CLOCK_MONOTONIC); now_ns(CLOCK_MONOTONIC) - begun < NS;)
        serve(NS / 10);
    printf("{\"server\":\"%s\",\"phase\":\"idle\",\"sockets\":%zu,\"rss_bytes_per_socket\":%ld,"
           "\"base_rss_kb\":%ld,\"idle_cpu_ms_per_s\":%.1f}\n",
           g.label, g.n, (after - before) / (long)(g.n - first), before / 1024,
           (double)(server_cpu_ns() - cpu) / 1e6);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    unsigned kept, rate;

    if (argc != 7) {
        fputs("usage: relay_generator LABEL PORT PID SECONDS RATE KEPT <pairs\n"
              "RATE: messages a second in the open loop, 0: none; KEPT: messages of each socket measured\n"
              "first, while the server still keeps them for late joiners, 0: none\n", stderr);
        return 2;
    }
    g.label = argv[1];
    g.port = (uint16_t)strtoul(argv[2], NULL, 10);
    g.pid = (pid_t)strtol(argv[3], NULL, 10);
    g.seconds = (unsigned)strtoul(argv[4], NULL, 10);
    rate = (unsigned)strtoul(argv[5], NULL, 10);
    kept = (unsigned)strtoul(argv[6], NULL, 10);
    g.ep = epoll_create1(EPOLL_CLOEXEC);
    g.hist = calloc(HIST_US, sizeof(*g.hist));
    if (!g.hist || g.ep < 0)
        die("out of memory");
    prctl(PR_SET_TIMERSLACK, 1UL);
    read_pairs();
    measure_idle();
    begin_calls();
    if (kept)
        closed_loop("kept", kept);
    closed_loop("saturated", 0);
    if (rate)
        open_loop("open loop", rate);
    return 0;
}
