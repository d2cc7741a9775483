/* The codec accepts its input in any pieces, returns the messages that RFC 6455 defines, and refuses what it forbids. */

#include <string.h>

#include "check.h"

static pve_tunnel_codec *make(const char *options)
{
    pve_tunnel_codec *codec = NULL;
    CHECK_OK(pve_tunnel_codec_new(options, &codec));
    CHECK(codec != NULL);
    return codec;
}

static void expect(pve_tunnel_codec *codec, int32_t opcode, bool end, const void *payload, size_t length)
{
    int32_t got_opcode = -1;
    bool got_end = !end;
    uint8_t *got = NULL;
    size_t got_length = 0;
    CHECK_OK(pve_tunnel_codec_next(codec, &got_opcode, &got_end, &got, &got_length));
    CHECK(got_opcode == opcode);
    CHECK(got_end == end);
    CHECK(got_length == length);
    CHECK(memcmp(got, payload, length) == 0);
    CHECK(got[length] == 0);
    pve_tunnel_bytes_free(got, got_length);
}

static void expect_nothing(pve_tunnel_codec *codec)
{
    int32_t opcode = -1;
    bool end = true;
    uint8_t byte = 0;
    uint8_t *payload = &byte;
    size_t length = 1;
    CHECK_OK(pve_tunnel_codec_next(codec, &opcode, &end, &payload, &length));
    CHECK(opcode == 0 && !end && payload == NULL && length == 0);
}

static void feed(pve_tunnel_codec *codec, const char *wire, size_t length)
{
    CHECK_OK(pve_tunnel_codec_feed(codec, (const uint8_t *)wire, length));
}

/* The examples in RFC 6455 section 5.7, received by a client. */
static void examples_of_the_rfc(void)
{
    pve_tunnel_codec *codec = make("{\"role\":\"client\"}");
    feed(codec, "\x81\x05Hello", 7);
    expect(codec, 1, true, "Hello", 5);
    expect_nothing(codec);

    /* A ping between the two fragments of a message. */
    feed(codec, "\x01\x03Hel\x89\x05Hello\x80\x02lo", 16);
    expect(codec, 1, false, "Hel", 3);
    expect(codec, 9, true, "Hello", 5);
    expect(codec, 1, true, "lo", 2);
    expect_nothing(codec);

    feed(codec, "\x8a\x00\x82\x00", 4);
    expect(codec, 10, true, "", 0);
    expect(codec, 2, true, "", 0);
    feed(codec, "\x88\x05\x03\xe8" "bye", 7);
    expect(codec, 8, true, "\x03\xe8" "bye", 5);
    expect_nothing(codec);
    pve_tunnel_codec_free(codec);

    codec = make("{\"role\":\"server\"}");
    feed(codec, "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", 11);
    expect(codec, 1, true, "Hello", 5);
    pve_tunnel_codec_free(codec);
}

static void refused(const char *options, const char *wire, size_t length)
{
    pve_tunnel_codec *codec = make(options);
    feed(codec, wire, length);
    int32_t opcode = -7;
    bool end = true;
    uint8_t *payload = NULL;
    size_t got = 77;
    CHECK_STATUS(pve_tunnel_codec_next(codec, &opcode, &end, &payload, &got), PVE_TUNNEL_STATUS_PROTOCOL);
    CHECK(opcode == -7 && end && payload == NULL && got == 77);
    CHECK(strlen(pve_tunnel_last_error()) > strlen("pve_tunnel_codec_next: "));
    pve_tunnel_codec_free(codec);
}

static void input_that_the_rfc_forbids(void)
{
    const char *const client = "{\"role\":\"client\"}";
    const char *const server = "{\"role\":\"server\"}";
    refused(client, "\xc2\x00", 2);                                         /* reserved bit */
    refused(client, "\x83\x00", 2);                                         /* reserved data opcode */
    refused(client, "\x8b\x00", 2);                                         /* reserved control opcode */
    refused(client, "\x82\x80\x00\x00\x00\x00", 6);                         /* masked by a server */
    refused(server, "\x82\x01x", 3);                                        /* not masked by a client */
    refused(client, "\x80\x01x", 3);                                        /* continuation without a first frame */
    refused(client, "\x09\x00", 2);                                         /* fragmented ping */
    refused(client, "\x89\x7e\x00\x7e", 4);                                 /* ping of 126 bytes */
    refused(client, "\x88\x01\x03", 3);                                     /* one byte of a close code */
    refused(client, "\x82\x7f\x00\x00\x00\x00\x00\x02\x00\x01", 10);        /* 131073 bytes */
    refused(client, "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", 10);        /* top bit of the length */
    refused("{\"max_frame\":125}", "\x82\x7e\x00\x7e", 4);                  /* above the limit in the options */
}

/* From client to server, in pieces of increasing size. The payload needs two frames. */
static void round_trip(const char *client_options)
{
    const size_t total = 131072 + 4321;
    uint8_t *sent = malloc(total);
    uint8_t *received = malloc(total);
    CHECK(sent != NULL && received != NULL);
    for (size_t i = 0; i < total; i++)
        sent[i] = (uint8_t)(i * 31 + (i >> 8));

    pve_tunnel_codec *client = make(client_options);
    pve_tunnel_codec *server = make("{\"role\":\"server\"}");
    uint8_t *wire = NULL;
    size_t wire_length = 0;
    CHECK_OK(pve_tunnel_codec_encode(client, 2, sent, total, &wire, &wire_length));
    CHECK(wire_length == total + 14 + 8);

    size_t got = 0, ends = 0, piece = 1;
    for (size_t at = 0; at < wire_length; at += piece, piece = piece % 5000 + 1) {
        if (piece > wire_length - at)
            piece = wire_length - at;
        CHECK_OK(pve_tunnel_codec_feed(server, wire + at, piece));
        for (;;) {
            int32_t opcode = -1;
            bool end = false;
            uint8_t *payload = NULL;
            size_t length = 0;
            CHECK_OK(pve_tunnel_codec_next(server, &opcode, &end, &payload, &length));
            if (opcode == 0)
                break;
            CHECK(opcode == 2);
            CHECK(length <= total - got);
            memcpy(received + got, payload, length);
            got += length;
            ends += end;
            pve_tunnel_bytes_free(payload, length);
        }
    }
    CHECK(got == total);
    CHECK(ends == 2);
    CHECK(memcmp(sent, received, total) == 0);

    /* The frames of the server, not masked. */
    pve_tunnel_bytes_free(wire, wire_length);
    CHECK_OK(pve_tunnel_codec_encode(server, 10, (const uint8_t *)"Hello", 5, &wire, &wire_length));
    CHECK(wire_length == 7 && memcmp(wire, "\x8a\x05Hello", 7) == 0);
    CHECK_OK(pve_tunnel_codec_feed(client, wire, wire_length));
    expect(client, 10, true, "Hello", 5);
    pve_tunnel_bytes_free(wire, wire_length);
    pve_tunnel_codec_free(client);
    pve_tunnel_codec_free(server);
    free(sent);
    free(received);
}

static void masks_follow_the_options(void)
{
    uint8_t *wire = NULL;
    size_t length = 0;
    pve_tunnel_codec *codec = make("{\"mask\":\"zero\"}");
    CHECK_OK(pve_tunnel_codec_encode(codec, 2, (const uint8_t *)"abc", 3, &wire, &length));
    CHECK(length == 9 && memcmp(wire, "\x82\x83\x00\x00\x00\x00" "abc", 9) == 0);
    pve_tunnel_bytes_free(wire, length);
    pve_tunnel_codec_free(codec);

    /* Random by default. The chance of sixteen equal keys is 1 in 2^480. */
    codec = make(NULL);
    uint8_t first[4] = {0, 0, 0, 0};
    bool differs = false;
    for (int i = 0; i < 16; i++) {
        CHECK_OK(pve_tunnel_codec_encode(codec, 2, (const uint8_t *)"abc", 3, &wire, &length));
        CHECK(length == 9);
        if (i == 0)
            memcpy(first, wire + 2, 4);
        differs = differs || memcmp(first, wire + 2, 4) != 0;
        CHECK((wire[6] ^ wire[2]) == 'a');
        pve_tunnel_bytes_free(wire, length);
    }
    CHECK(differs);
    pve_tunnel_codec_free(codec);
}

static void bad_arguments_are_refused(void)
{
    pve_tunnel_codec *codec = NULL;
    CHECK_STATUS(pve_tunnel_codec_new("{\"role\":\"proxy\"}", &codec), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_codec_new("{\"mask\":1}", &codec), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_codec_new("{\"max_frame\":124}", &codec), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_codec_new("{\"max_frame\":16777217}", &codec), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_codec_new("{\"rolle\":\"client\"}", &codec), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK(strstr(pve_tunnel_last_error(), "rolle") != NULL);
    CHECK_STATUS(pve_tunnel_codec_new("[]", &codec), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK(codec == NULL);

    codec = make(NULL);
    uint8_t data[126] = {0};
    uint8_t *wire = NULL;
    size_t length = 0;
    CHECK_STATUS(pve_tunnel_codec_encode(codec, 0, data, 1, &wire, &length), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_codec_encode(codec, 3, data, 1, &wire, &length), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_codec_encode(codec, -1, data, 1, &wire, &length), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(pve_tunnel_codec_encode(codec, 9, data, 126, &wire, &length), PVE_TUNNEL_STATUS_TOO_LONG);
    CHECK(wire == NULL && length == 0);
    CHECK_OK(pve_tunnel_codec_encode(codec, 9, data, 125, &wire, &length));
    pve_tunnel_bytes_free(wire, length);
    pve_tunnel_codec_free(codec);
}

int main(void)
{
    examples_of_the_rfc();
    input_that_the_rfc_forbids();
    round_trip("{\"mask\":\"random\"}");
    round_trip("{\"mask\":\"zero\",\"max_frame\":131072}");
    masks_follow_the_options();
    bad_arguments_are_refused();
    return 0;
}
