/* Masking is the XOR of RFC 6455 for every length, alignment and phase, and changes no byte outside the buffer. */

#include <string.h>

#include "check.h"

enum { LONGEST = 200, ROOM = LONGEST + 80 };

static uint8_t byte_at(size_t index)
{
    return (uint8_t)(index * 131 + 17);
}

static void check_one(size_t start, size_t length, size_t phase)
{
    static const uint8_t key[4] = {0x37, 0xfa, 0x21, 0x3d};
    uint8_t data[ROOM];
    for (size_t i = 0; i < ROOM; i++)
        data[i] = byte_at(i);
    CHECK_OK(pve_tunnel_mask(data + start, length, key, phase));
    for (size_t i = 0; i < ROOM; i++) {
        bool inside = i >= start && i - start < length;
        uint8_t expected = inside ? (uint8_t)(byte_at(i) ^ key[(phase + i - start) % 4]) : byte_at(i);
        CHECK(data[i] == expected);
    }
}

int main(void)
{
    for (size_t start = 0; start < 33; start++)
        for (size_t length = 0; length <= LONGEST; length += length < 70 ? 1 : 13)
            for (size_t phase = 0; phase < 4; phase++)
                check_one(start, length, phase);
    check_one(3, 65, (size_t)-1);

    /* The masked text message of RFC 6455 section 5.7. */
    uint8_t hello[5] = {0x7f, 0x9f, 0x4d, 0x51, 0x58};
    const uint8_t key[4] = {0x37, 0xfa, 0x21, 0x3d};
    CHECK_OK(pve_tunnel_mask(hello, sizeof hello, key, 0));
    CHECK(memcmp(hello, "Hello", 5) == 0);
    return 0;
}
