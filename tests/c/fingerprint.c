/* Fingerprints are accepted in both cases, with or without colons, and returned in the form of Proxmox VE. */

#include <string.h>

#include "check.h"

static const char *const CANONICAL =
    "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF";

static void accepted(const char *text)
{
    char *canonical = NULL;
    CHECK_OK(pve_tunnel_fingerprint_parse(text, &canonical));
    CHECK(strcmp(canonical, CANONICAL) == 0);
    pve_tunnel_string_free(canonical);
}

static void refused(const char *text)
{
    char *canonical = NULL;
    CHECK_STATUS(pve_tunnel_fingerprint_parse(text, &canonical), PVE_TUNNEL_STATUS_INVALID_ARGUMENT);
    CHECK(canonical == NULL);
}

int main(void)
{
    accepted(CANONICAL);
    accepted("00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff");
    accepted("00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF");
    refused("");
    refused("00:11");
    refused("00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF00");
    refused("g0112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF");
    return 0;
}
