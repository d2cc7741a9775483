/*
 * The object of PVE::Tunnel::Native::Codec: its lifetime, and the names of its opcodes.
 *
 * Part of Native.xs, which includes it after scalars.h.
 */
#ifndef PVE_TUNNEL_CODEC_H
#define PVE_TUNNEL_CODEC_H

typedef struct {
    pve_tunnel_codec *codec;
    bool tainted; /* it was fed tainted bytes, so its output is tainted */
} codec_slot;

/* Runs when the object is destroyed, also in global destruction. In a forked child the library
 * detects that the codec belongs to the parent, and frees nothing. */
static int
codec_magic_free(pTHX_ SV *sv, MAGIC *mg)
{
    codec_slot *slot = (codec_slot *)mg->mg_ptr;

    PERL_UNUSED_ARG(sv);
    if (slot) {
        mg->mg_ptr = NULL;
        pve_tunnel_codec_free(slot->codec);
        Safefree(slot);
    }
    return 0;
}

/* Runs for the copy in a new thread: the codec belongs to the thread that created it. */
static int
codec_magic_dup(pTHX_ MAGIC *mg, CLONE_PARAMS *param)
{
    PERL_UNUSED_CONTEXT;
    PERL_UNUSED_ARG(param);
    mg->mg_ptr = NULL;
    return 0;
}

/* The address of this table identifies the magic of this module. */
static const MGVTBL codec_vtbl = { .svt_free = codec_magic_free, .svt_dup = codec_magic_dup };

/* The codec of an object, after FETCH (see scalars.h). */
static codec_slot *
codec_of(pTHX_ SV *self, const char *function)
{
    MAGIC *mg = NULL;

    if (SvROK(self) && SvTYPE(SvRV(self)) >= SVt_PVMG)
        mg = mg_findext(SvRV(self), PERL_MAGIC_ext, &codec_vtbl);
    if (!mg)
        croak("%s: this is not a codec, or a copy, which cannot be used: create another\n",
            function);
    if (!mg->mg_ptr)
        croak("%s: this codec belongs to another thread: create one in this thread\n", function);
    return (codec_slot *)mg->mg_ptr;
}

static const struct {
    const char *name;
    int32_t number;
} opcodes[] = {
    { "text", 1 }, { "binary", 2 }, { "close", 8 }, { "ping", 9 }, { "pong", 10 },
};

static int32_t
opcode_number(pTHX_ SV *sv)
{
    const char *name = c_string(aTHX_ sv, "pve_tunnel_codec_encode: opcode");

    for (size_t i = 0; i < C_ARRAY_LENGTH(opcodes); i++)
        if (strEQ(opcodes[i].name, name))
            return opcodes[i].number;
    croak("pve_tunnel_codec_encode: opcode '%s' is not one of: text, binary, close, ping, pong\n",
        name);
}

static SV *
opcode_name(pTHX_ int32_t number)
{
    for (size_t i = 0; i < C_ARRAY_LENGTH(opcodes); i++)
        if (opcodes[i].number == number)
            return newSVpv(opcodes[i].name, 0);
    return newSViv(number);
}

#endif
