/*
 * PVE::Tunnel::Native: one function per function of pve_tunnel.h.
 *
 * The library decides. This file converts byte strings and statuses (scalars.h), and binds the
 * lifetime of a codec to that of its Perl object (codec.h). Two functions are for
 * PVE::Tunnel::Overlay::Shape and do not use the library (parameters.h).
 */
#define PERL_NO_GET_CONTEXT
#include "EXTERN.h"
#include "perl.h"
#include "XSUB.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "pve_tunnel.h"
#include "scalars.h"

#include "codec.h"
#include "parameters.h"

MODULE = PVE::Tunnel::Native    PACKAGE = PVE::Tunnel::Native

PROTOTYPES: DISABLE

BOOT:
{
    static const struct {
        const char *name;
        int32_t status;
    } statuses[] = {
        { "STATUS_OK", 0 },
        { "STATUS_NULL_POINTER", PVE_TUNNEL_STATUS_NULL_POINTER },
        { "STATUS_INVALID_ARGUMENT", PVE_TUNNEL_STATUS_INVALID_ARGUMENT },
        { "STATUS_NOT_UTF8", PVE_TUNNEL_STATUS_NOT_UTF8 },
        { "STATUS_TOO_LONG", PVE_TUNNEL_STATUS_TOO_LONG },
        { "STATUS_PROTOCOL", PVE_TUNNEL_STATUS_PROTOCOL },
        { "STATUS_IO", PVE_TUNNEL_STATUS_IO },
        { "STATUS_REFUSED", PVE_TUNNEL_STATUS_REFUSED },
        { "STATUS_WRONG_PROCESS", PVE_TUNNEL_STATUS_WRONG_PROCESS },
        { "STATUS_PANIC", PVE_TUNNEL_STATUS_PANIC },
        { "STATUS_OUT_OF_MEMORY", PVE_TUNNEL_STATUS_OUT_OF_MEMORY },
    };
    HV *stash = gv_stashpvs("PVE::Tunnel::Native", GV_ADD);

    /* The soname prevents another ABI, unless a library was installed by hand. */
    if (pve_tunnel_abi_version() != PVE_TUNNEL_ABI_VERSION)
        croak("PVE::Tunnel::Native needs ABI %u of libpve_tunnel, this is ABI %u (version %s)\n",
            (unsigned)PVE_TUNNEL_ABI_VERSION, (unsigned)pve_tunnel_abi_version(),
            pve_tunnel_version());
    for (size_t i = 0; i < C_ARRAY_LENGTH(statuses); i++)
        newCONSTSUB(stash, statuses[i].name, newSViv(statuses[i].status));
    newCONSTSUB(stash, "CONFIGURATION_MAX", newSVuv(PVE_TUNNEL_CONFIGURATION_MAX));
    newCONSTSUB(stash, "LINE_MAX", newSVuv(PVE_TUNNEL_LINE_MAX));
}

UV
abi_version()
  CODE:
    RETVAL = pve_tunnel_abi_version();
  OUTPUT:
    RETVAL

const char *
version()
  CODE:
    RETVAL = pve_tunnel_version();
  OUTPUT:
    RETVAL

const char *
last_error()
  CODE:
    RETVAL = pve_tunnel_last_error();
  OUTPUT:
    RETVAL

IV
last_status()
  CODE:
    RETVAL = pve_tunnel_last_status();
  OUTPUT:
    RETVAL

void
mask(SV *data, SV *key, SV *phase = NULL)
  PREINIT:
    STRLEN len;
    const char *bytes;
    char *place;
    uint8_t fixed_key[4];
    UV offset = 0;
    bool tainted;
  CODE:
    FETCH(&key, &phase);
    STRINGS(&key);
    /* data is changed in place, so it is not copied. Its magic may free the other arguments. */
    keep(aTHX_ data);
    keep(aTHX_ key);
    if (phase)
        keep(aTHX_ phase);
    SvGETMAGIC(data);

    /* The key is copied first, because it may be the data itself or a substr of it. */
    bytes = byte_string(aTHX_ key, &len, "pve_tunnel_mask: key");
    if (len != sizeof(fixed_key))
        croak("pve_tunnel_mask: key is %" UVuf " bytes, not 4\n", (UV)len);
    memcpy(fixed_key, bytes, sizeof(fixed_key));

    if (phase) {
        if (!SvOK(phase) || SvROK(phase) || !looks_like_number(phase)
            || (!SvUOK(phase) && SvNV_nomg(phase) < 0))
            croak("pve_tunnel_mask: phase is not a number of bytes\n");
        offset = SvUV_nomg(phase);
    }

    if (SvREADONLY(data))
        croak("pve_tunnel_mask: data is read-only: mask changes it in place\n");
    if (!SvOK(data))
        croak("pve_tunnel_mask: data is undefined\n");
    if (SvROK(data))
        croak("pve_tunnel_mask: data is a reference, not a byte string\n");
    tainted = SvTAINTED(data) || SvTAINTED(key);

    place = SvPV_force_nomg(data, len); /* copies a shared buffer */
    if (SvUTF8(data)) {
        if (!sv_utf8_downgrade_nomg(data, TRUE))
            croak("pve_tunnel_mask: data contains wide characters, not bytes; encode it first\n");
        place = SvPV_force_nomg(data, len);
    }
    check(aTHX_ "pve_tunnel_mask", pve_tunnel_mask((uint8_t *)place, len, fixed_key, offset));

    (void)SvPOK_only(data); /* a cached number is no longer valid */
    if (tainted)
        SvTAINTED_on(data);
    SvSETMAGIC(data);

SV *
fingerprint_parse(SV *text)
  PREINIT:
    const char *bytes;
    char *canonical = NULL;
  CODE:
    FETCH(&text);
    STRINGS(&text);
    bytes = c_string(aTHX_ text, "pve_tunnel_fingerprint_parse: fingerprint");
    check(aTHX_ "pve_tunnel_fingerprint_parse", pve_tunnel_fingerprint_parse(bytes, &canonical));
    RETVAL = text_from(aTHX_ canonical, SvTAINTED(text));
  OUTPUT:
    RETVAL

void
port_bind(SV *address)
  PREINIT:
    const char *text;
    int fd = -1;
    uint16_t port = 0;
  PPCODE:
    FETCH(&address);
    STRINGS(&address);
    text = c_string(aTHX_ address, "pve_tunnel_port_bind: address");
    if (SvTAINTED(address)) { /* as the built-in bind */
        TAINT;
        TAINT_PROPER("port_bind");
    }
    check(aTHX_ "pve_tunnel_port_bind", pve_tunnel_port_bind(text, &fd, &port));
    EXTEND(SP, 2);
    TAINT_NOT; /* both come from the kernel */
    mPUSHi(fd);
    mPUSHu(port);

SV *
_version_reply_parse(SV *json)
  PREINIT:
    const char *bytes;
    char *answer = NULL;
  CODE:
    FETCH(&json);
    STRINGS(&json);
    bytes = c_string(aTHX_ json, "pve_tunnel_version_reply_parse: version reply");
    check(aTHX_ "pve_tunnel_version_reply_parse", pve_tunnel_version_reply_parse(bytes, &answer));
    RETVAL = text_from(aTHX_ answer, SvTAINTED(json));
  OUTPUT:
    RETVAL

SV *
_plan(SV *json)
  PREINIT:
    const char *bytes;
    char *answer = NULL;
  CODE:
    FETCH(&json);
    STRINGS(&json);
    bytes = c_string(aTHX_ json, "pve_tunnel_plan: input");
    check(aTHX_ "pve_tunnel_plan", pve_tunnel_plan(bytes, &answer));
    RETVAL = text_from(aTHX_ answer, SvTAINTED(json));
  OUTPUT:
    RETVAL

SV *
_configuration_select(SV *text, SV *json)
  PREINIT:
    const char *content;
    const char *bytes;
    char *answer = NULL;
  CODE:
    FETCH(&text, &json);
    STRINGS(&text, &json);
    content = optional_c_string(aTHX_ text, "pve_tunnel_configuration_select: text");
    bytes = c_string(aTHX_ json, "pve_tunnel_configuration_select: input");
    check(aTHX_ "pve_tunnel_configuration_select",
        pve_tunnel_configuration_select(content, bytes, &answer));
    RETVAL = text_from(aTHX_ answer, SvTAINTED(text) || SvTAINTED(json));
  OUTPUT:
    RETVAL

SV *
_seam_decide(SV *text, SV *json)
  PREINIT:
    const char *content;
    const char *bytes;
    char *answer = NULL;
  CODE:
    FETCH(&text, &json);
    STRINGS(&text, &json);
    content = optional_c_string(aTHX_ text, "pve_tunnel_seam_decide: text");
    bytes = c_string(aTHX_ json, "pve_tunnel_seam_decide: input");
    check(aTHX_ "pve_tunnel_seam_decide", pve_tunnel_seam_decide(content, bytes, &answer));
    RETVAL = text_from(aTHX_ answer, false); /* the library has checked every value */
  OUTPUT:
    RETVAL

SV *
_seam_answer(SV *operation, SV *line)
  PREINIT:
    const char *name;
    const char *bytes;
    char *answer = NULL;
  CODE:
    FETCH(&operation, &line);
    STRINGS(&operation, &line);
    name = c_string(aTHX_ operation, "pve_tunnel_seam_answer: operation");
    bytes = c_string(aTHX_ line, "pve_tunnel_seam_answer: answer");
    check(aTHX_ "pve_tunnel_seam_answer", pve_tunnel_seam_answer(name, bytes, &answer));
    RETVAL = text_from(aTHX_ answer, false); /* the library has checked every value */
  OUTPUT:
    RETVAL

SV *
_network_address(SV *network, SV *node)
  PREINIT:
    const char *spec;
    const char *name;
    char *answer = NULL;
  CODE:
    FETCH(&network, &node);
    STRINGS(&network, &node);
    spec = optional_c_string(aTHX_ network, "pve_tunnel_network_address: network");
    name = c_string(aTHX_ node, "pve_tunnel_network_address: node name");
    check(aTHX_ "pve_tunnel_network_address", pve_tunnel_network_address(spec, name, &answer));
    RETVAL = text_from(aTHX_ answer, SvTAINTED(network) || SvTAINTED(node));
  OUTPUT:
    RETVAL

SV *
_endpoint_check(SV *json)
  PREINIT:
    const char *bytes;
    char *answer = NULL;
  CODE:
    FETCH(&json);
    STRINGS(&json);
    bytes = c_string(aTHX_ json, "pve_tunnel_endpoint_check: input");
    check(aTHX_ "pve_tunnel_endpoint_check", pve_tunnel_endpoint_check(bytes, &answer));
    RETVAL = text_from(aTHX_ answer, SvTAINTED(json));
  OUTPUT:
    RETVAL

SV *
_guard_check(SV *json)
  PREINIT:
    const char *bytes;
    char *answer = NULL;
  CODE:
    FETCH(&json);
    STRINGS(&json);
    bytes = c_string(aTHX_ json, "pve_tunnel_guard_check: input");
    check(aTHX_ "pve_tunnel_guard_check", pve_tunnel_guard_check(bytes, &answer));
    RETVAL = text_from(aTHX_ answer, SvTAINTED(json));
  OUTPUT:
    RETVAL

void
_connector_run(SV *input, SV *output, SV *log, SV *options)
  PREINIT:
    int in, out, messages;
    const char *json;
  CODE:
    FETCH(&input, &output, &log, &options);
    STRINGS(&options);
    in = descriptor(aTHX_ input, "pve_tunnel_connector_run: input");
    out = descriptor(aTHX_ output, "pve_tunnel_connector_run: output");
    messages = optional_descriptor(aTHX_ log, "pve_tunnel_connector_run: log");
    json = optional_c_string(aTHX_ options, "pve_tunnel_connector_run: options");
    check(aTHX_ "pve_tunnel_connector_run",
        pve_tunnel_connector_run(in, out, messages, json));
    PERL_ASYNC_CHECK(); /* inside the caller's eval, as in check */

void
_listener_run(SV *control, SV *log, SV *options)
  PREINIT:
    int line, messages;
    const char *json;
  CODE:
    FETCH(&control, &log, &options);
    STRINGS(&options);
    line = descriptor(aTHX_ control, "pve_tunnel_listener_run: control");
    messages = optional_descriptor(aTHX_ log, "pve_tunnel_listener_run: log");
    json = c_string(aTHX_ options, "pve_tunnel_listener_run: options");
    check(aTHX_ "pve_tunnel_listener_run", pve_tunnel_listener_run(line, messages, json));
    PERL_ASYNC_CHECK(); /* inside the caller's eval, as in check */

bool
_any_tainted(SV *structure)
  CODE:
    RETVAL = any_tainted(aTHX_ structure, 0);
  OUTPUT:
    RETVAL

void
_taint_all(SV *structure)
  CODE:
    taint_all(aTHX_ structure, 0);

MODULE = PVE::Tunnel::Native    PACKAGE = PVE::Tunnel::Native::Codec

SV *
_new(SV *class, SV *options)
  PREINIT:
    HV *stash;
    const char *json;
    pve_tunnel_codec *codec = NULL;
    codec_slot *slot;
    SV *object;
    MAGIC *mg;
  CODE:
    FETCH(&class, &options);
    STRINGS(&options);
    if (!SvOK(class) || SvROK(class))
        croak("pve_tunnel_codec_new: new is a class method\n");
    json = optional_c_string(aTHX_ options, "pve_tunnel_codec_new: options");
    stash = gv_stashsv(class, GV_ADD);
    check(aTHX_ "pve_tunnel_codec_new", pve_tunnel_codec_new(json, &codec));

    Newxz(slot, 1, codec_slot);
    slot->codec = codec;
    object = newSV(0);
    mg = sv_magicext(object, NULL, PERL_MAGIC_ext, &codec_vtbl, (const char *)slot, 0);
    mg->mg_flags |= MGf_DUP; /* without it a new thread would copy the pointer */
    RETVAL = sv_bless(newRV_noinc(object), stash);
  OUTPUT:
    RETVAL

void
feed(SV *self, SV *data)
  PREINIT:
    codec_slot *slot;
    const char *bytes;
    STRLEN len;
  CODE:
    FETCH(&self, &data);
    STRINGS(&data);
    bytes = byte_string(aTHX_ data, &len, "pve_tunnel_codec_feed: data");
    slot = codec_of(aTHX_ self, "pve_tunnel_codec_feed");
    if (SvTAINTED(data))
        slot->tainted = true;
    check(aTHX_ "pve_tunnel_codec_feed",
        pve_tunnel_codec_feed(slot->codec, (const uint8_t *)bytes, len));

SV *
next(SV *self)
  PREINIT:
    codec_slot *slot;
    int32_t opcode = 0;
    bool end = false;
    uint8_t *payload = NULL;
    size_t len = 0;
    HV *frame;
  CODE:
    FETCH(&self);
    slot = codec_of(aTHX_ self, "pve_tunnel_codec_next");
    check(aTHX_ "pve_tunnel_codec_next",
        pve_tunnel_codec_next(slot->codec, &opcode, &end, &payload, &len));
    if (opcode == 0)
        XSRETURN_UNDEF;

    frame = newHV();
    (void)hv_stores(frame, "opcode", opcode_name(aTHX_ opcode));
    (void)hv_stores(frame, "end", newSViv(end ? 1 : 0));
    (void)hv_stores(frame, "payload", bytes_from(aTHX_ payload, len, slot->tainted));
    RETVAL = newRV_noinc((SV *)frame);
  OUTPUT:
    RETVAL

SV *
encode(SV *self, SV *opcode, SV *data)
  PREINIT:
    codec_slot *slot;
    const char *bytes;
    STRLEN len;
    uint8_t *encoded = NULL;
    size_t encoded_len = 0;
    int32_t number;
  CODE:
    FETCH(&self, &opcode, &data);
    STRINGS(&opcode, &data);
    number = opcode_number(aTHX_ opcode);
    bytes = byte_string(aTHX_ data, &len, "pve_tunnel_codec_encode: data");
    slot = codec_of(aTHX_ self, "pve_tunnel_codec_encode");
    check(aTHX_ "pve_tunnel_codec_encode",
        pve_tunnel_codec_encode(slot->codec, number, (const uint8_t *)bytes, len, &encoded,
            &encoded_len));
    RETVAL = bytes_from(aTHX_ encoded, encoded_len, SvTAINTED(data));
  OUTPUT:
    RETVAL

MODULE = PVE::Tunnel::Native    PACKAGE = PVE::Tunnel::Overlay::Shape

void
_parameters(SV *function)
  PREINIT:
    AV *names;
  PPCODE:
    names = parameters(aTHX_ code_of(aTHX_ function));
    for (SSize_t i = 0; i <= av_top_index(names); i++)
        mXPUSHs(SvREFCNT_inc(AvARRAY(names)[i]));

SV *
_package(SV *function)
  PREINIT:
    HV *stash;
  CODE:
    stash = CvSTASH(code_of(aTHX_ function));
    if (!stash || !HvNAME_HEK(stash))
        XSRETURN_UNDEF;
    RETVAL = newSVhek(HvNAME_HEK(stash));
  OUTPUT:
    RETVAL
