/* A failed allocation is a status and changes nothing: the same call works when there is memory again. The process has a limit on
 * its address space (RLIMIT_AS), as an administrator or systemd may set it. */

#define _DEFAULT_SOURCE

#include <malloc.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { MIB = 1 << 20, LARGE = 12 * MIB };

/* Limits the address space to what the process uses, and so much more. */
static void limit(size_t more)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1 && fclose(file) == 0);
    struct rlimit wanted;
    CHECK(getrlimit(RLIMIT_AS, &wanted) == 0);
    wanted.rlim_cur = pages * (rlim_t)sysconf(_SC_PAGESIZE) + more;
    CHECK(setrlimit(RLIMIT_AS, &wanted) == 0);
}

static void lift_limit(void)
{
    struct rlimit wanted;
    CHECK(getrlimit(RLIMIT_AS, &wanted) == 0);
    wanted.rlim_cur = wanted.rlim_max;
    CHECK(setrlimit(RLIMIT_AS, &wanted) == 0);
}

#define CHECK_OUT_OF_MEMORY(call)                                         \
    do {                                                                  \
        CHECK_STATUS(call, PVE_TUNNEL_STATUS_OUT_OF_MEMORY);              \
        CHECK(strstr(pve_tunnel_last_error(), ": cannot allocate ") != NULL); \
    } while (0)

static pve_tunnel_codec *make(const char *options)
{
    pve_tunnel_codec *codec = NULL;
    CHECK_OK(pve_tunnel_codec_new(options, &codec));
    return codec;
}

static uint8_t *pattern(size_t length)
{
    uint8_t *bytes = malloc(length);
    CHECK(bytes != NULL);
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(i * 31 + (i >> 8));
    return bytes;
}

static void expect(pve_tunnel_codec *codec, bool end, const uint8_t *payload, size_t length)
{
    int32_t opcode = 0;
    bool got_end = !end;
    uint8_t *got = NULL;
    size_t got_length = 0;
    CHECK_OK(pve_tunnel_codec_next(codec, &opcode, &got_end, &got, &got_length));
    CHECK(opcode == 2 && got_end == end && got_length == length);
    CHECK(memcmp(got, payload, length) == 0 && got[length] == 0);
    pve_tunnel_bytes_free(got, got_length);
}

/* The frame of LARGE bytes whose first bytes were fed before. */
static void feed(void)
{
    static const uint8_t header[] = {0x82, 127, 0, 0, 0, 0, LARGE >> 24, LARGE >> 16 & 255, LARGE >> 8 & 255, LARGE & 255};
    pve_tunnel_codec *codec = make("{\"max_frame\":16777216}");
    uint8_t *payload = pattern(LARGE);
    CHECK_OK(pve_tunnel_codec_feed(codec, header, sizeof header));
    CHECK_OK(pve_tunnel_codec_feed(codec, payload, 5));

    limit(MIB);
    CHECK_OUT_OF_MEMORY(pve_tunnel_codec_feed(codec, payload + 5, LARGE - 5));
    CHECK_OUT_OF_MEMORY(pve_tunnel_codec_feed(codec, payload + 5, LARGE - 5));
    CHECK(strcmp(pve_tunnel_last_error(),
                 "pve_tunnel_codec_feed: cannot allocate 12582907 bytes: the system has no memory left, or the process has "
                 "reached its limit; free memory and call again") == 0);
    expect(codec, false, payload, 5);
    lift_limit();
    CHECK_OK(pve_tunnel_codec_feed(codec, payload + 5, LARGE - 5));
    expect(codec, true, payload + 5, LARGE - 5);
    pve_tunnel_codec_free(codec);
    free(payload);
}

static void next(void)
{
    static const uint8_t header[] = {0x82, 127, 0, 0, 0, 0, LARGE >> 24, LARGE >> 16 & 255, LARGE >> 8 & 255, LARGE & 255};
    pve_tunnel_codec *codec = make("{\"max_frame\":16777216}");
    uint8_t *payload = pattern(LARGE);
    CHECK_OK(pve_tunnel_codec_feed(codec, header, sizeof header));
    CHECK_OK(pve_tunnel_codec_feed(codec, payload, LARGE));

    limit(MIB);
    for (int i = 0; i < 2; i++) {
        int32_t opcode = -7;
        bool end = false;
        uint8_t *got = NULL;
        size_t length = 77;
        CHECK_OUT_OF_MEMORY(pve_tunnel_codec_next(codec, &opcode, &end, &got, &length));
        CHECK(opcode == -7 && !end && got == NULL && length == 77);
    }
    lift_limit();
    expect(codec, true, payload, LARGE);
    pve_tunnel_codec_free(codec);
    free(payload);
}

static void encode(void)
{
    pve_tunnel_codec *client = make("{\"role\":\"client\"}");
    pve_tunnel_codec *server = make("{\"role\":\"server\"}");
    uint8_t *payload = pattern(LARGE);
    uint8_t *wire = NULL;
    size_t length = 77;

    limit(MIB);
    CHECK_OUT_OF_MEMORY(pve_tunnel_codec_encode(client, 2, payload, LARGE, &wire, &length));
    CHECK(wire == NULL && length == 77);
    /* A small payload fits. */
    CHECK_OK(pve_tunnel_codec_encode(client, 2, payload, 10, &wire, &length));
    CHECK(length == 16);
    pve_tunnel_bytes_free(wire, length);
    lift_limit();
    CHECK_OK(pve_tunnel_codec_encode(client, 2, payload, LARGE, &wire, &length));
    CHECK(length == LARGE + LARGE / 131072 * 14);
    CHECK_OK(pve_tunnel_codec_feed(server, wire, length));
    for (size_t at = 0; at < LARGE; at += 131072)
        expect(server, true, payload + at, 131072);
    pve_tunnel_bytes_free(wire, length);
    pve_tunnel_codec_free(client);
    pve_tunnel_codec_free(server);
    free(payload);
}

/* -------------------------------------------------------------------------------------------------------------- texts -- */

/* BEFORE, then UNIT repeatedly up to LENGTH bytes, then AFTER. */
static char *text(const char *before, const char *unit, const char *after, size_t length)
{
    char *whole = malloc(strlen(before) + length + strlen(after) + 1);
    CHECK(whole != NULL);
    size_t end = strlen(before);
    memcpy(whole, before, end);
    for (length += end; end + strlen(unit) <= length; end += strlen(unit))
        memcpy(whole + end, unit, strlen(unit));
    memcpy(whole + end, after, strlen(after) + 1);
    return whole;
}

enum { TEXTS = 9, TEXT_LENGTH = 100000 };

static char *texts[TEXTS];
static char *configuration;

static void make_texts(void)
{
    texts[0] = text("{\"api\":2,\"age\":0,\"x\":[", "{\"\":0},", "0]}", TEXT_LENGTH);
    texts[1] = text("{\"caps\":[", "\"a-b\",", "\"c\"]}", TEXT_LENGTH);
    texts[2] = text("{\"side\":\"target\",\"migration_type\":\"secure\",\"migration_network\":\"", "e", "\"}", TEXT_LENGTH);
    texts[3] = text("{\"network\":\"", "\\n", "\"}", TEXT_LENGTH);
    texts[4] = text("{\"address\":\"", "1", "\"}", TEXT_LENGTH);
    texts[5] = text("{\"direct\":{\"op\":\"hello\",\"x\":[", "[[]],", "0]},\"file\":\"/f\",\"node\":\"n\",\"listener\":\"none\"}",
                    TEXT_LENGTH);
    texts[6] = text("{\"x\":", "[", "", TEXT_LENGTH);
    texts[7] = text("{\"role\":\"client\",\"", "x", "\":1}", TEXT_LENGTH);
    texts[8] = text("", "a", "", 4000);
    configuration = text("network: dc1\n", "\tcomment x\n", "", TEXT_LENGTH);
}

/* Calls a function that takes a text, and frees its output. */
static int32_t call(int number)
{
    char *out = NULL;
    pve_tunnel_codec *codec = NULL;
    int32_t status = 0;
    switch (number) {
    case 0: status = pve_tunnel_version_reply_parse(texts[0], &out); break;
    case 1: status = pve_tunnel_plan(texts[1], &out); break;
    case 2: status = pve_tunnel_configuration_select(configuration, texts[2], &out); break;
    case 3: status = pve_tunnel_endpoint_check(texts[3], &out); break;
    case 4: status = pve_tunnel_guard_check(texts[4], &out); break;
    case 5: status = pve_tunnel_seam_decide(configuration, texts[5], &out); break;
    case 6: status = pve_tunnel_seam_answer("open", texts[6], &out); break;
    case 7: status = pve_tunnel_codec_new(texts[7], &codec); break;
    case 8: status = pve_tunnel_fingerprint_parse(texts[8], &out); break;
    }
    CHECK((status == PVE_TUNNEL_STATUS_OK) == (out != NULL) && codec == NULL);
    pve_tunnel_string_free(out);
    return status;
}

/* With every amount of memory up to the first one that is enough, each function returns OUT_OF_MEMORY or its normal status. */
static void a_text(void)
{
    /* Without a fixed threshold the allocator keeps what the first call frees, and no later call needs more. */
    CHECK(mallopt(M_MMAP_THRESHOLD, 128 << 10) == 1);
    make_texts();
    for (int number = 0; number < TEXTS; number++) {
        int32_t normal = call(number);
        int failed = 0;
        CHECK(normal != PVE_TUNNEL_STATUS_OUT_OF_MEMORY);
        for (size_t more = 0; more <= 64 * MIB; more += 128 << 10) {
            limit(more);
            int32_t status = call(number);
            lift_limit();
            CHECK(status == normal || status == PVE_TUNNEL_STATUS_OUT_OF_MEMORY);
            failed += status == PVE_TUNNEL_STATUS_OUT_OF_MEMORY;
        }
        CHECK(failed > 0);
        CHECK(call(number) == normal);
        free(texts[number]);
    }
    free(configuration);
}

/* ---------------------------------------------------------------------------------------------------------------------- */

/* Runs a test in a process of its own, so that an abort is a failure and not the end of this program. */
static void in_child(void (*test)(void), const char *name)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        test();
        exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status))
        fprintf(stderr, "%s: the library ended the process with signal %d\n", name, WTERMSIG(status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    in_child(feed, "feed");
    in_child(next, "next");
    in_child(encode, "encode");
    in_child(a_text, "a text");
    return 0;
}
