/*
 * The parameters of a Perl function, for PVE::Tunnel::Overlay::Shape.
 *
 * Perl keeps no list of parameters. They are derived from the operations of the function: from a
 * signature, or from a first statement that assigns @_ to new variables. The core module B can read
 * operations as well, but takes 0.4 MB in each process.
 *
 * Part of Native.xs, which includes it after Perl's headers.
 */
#ifndef PVE_TUNNEL_PARAMETERS_H
#define PVE_TUNNEL_PARAMETERS_H

/* The function of a reference that the module itself has just taken, so it has no magic. */
static CV *
code_of(pTHX_ SV *reference)
{
    if (!SvROK(reference) || SvTYPE(SvRV(reference)) != SVt_PVCV)
        croak("PVE::Tunnel::Overlay::Shape: this is not a code reference\n");
    return (CV *)SvRV(reference);
}

static OP *
first_kid(const OP *op)
{
    return op->op_flags & OPf_KIDS ? cUNOPx(op)->op_first : NULL;
}

/* The first operation of a list, from `op` on, that is part of a statement. */
static OP *
statement(OP *op)
{
    while (op
        && (op->op_type == OP_NEXTSTATE || op->op_type == OP_DBSTATE
            || op->op_type == OP_PUSHMARK))
        op = OpSIBLING(op);
    return op;
}

/* The first operation of a list, from `op` on, that returns an element. Perl may have merged the
 * operations of a list into its first one, padrange, but keeps them in the tree. */
static OP *
element(OP *op)
{
    while (op && (op->op_type == OP_PUSHMARK || op->op_type == OP_PADRANGE))
        op = OpSIBLING(op);
    return op;
}

/* Whether the operation returns the array @_. */
static bool
is_arguments(pTHX_ CV *cv, const OP *op)
{
    const OP *glob;
    const SV *value;

    if (op->op_type != OP_RV2AV)
        return false;
    glob = first_kid(op);
    if (!glob || glob->op_type != OP_GV)
        return false;
#ifdef USE_ITHREADS
    /* A Perl with threads keeps the glob among the function's values. */
    value = PadARRAY(PadlistARRAY(CvPADLIST(cv))[1])[cPADOPx(glob)->op_padix];
#else
    PERL_UNUSED_ARG(cv);
    value = cSVOPx(glob)->op_sv;
#endif
    return value == (const SV *)PL_defgv;
}

/* Whether the operation declares a variable with `my`. */
static bool
is_declaration(const OP *op)
{
    return (op->op_type == OP_PADSV || op->op_type == OP_PADAV || op->op_type == OP_PADHV)
        && (op->op_private & OPpLVAL_INTRO);
}

/* Adds the name of the variable that the operation sets. */
static void
push_variable(pTHX_ AV *names, CV *cv, const OP *op)
{
    PADNAMELIST *known = PadlistNAMES(CvPADLIST(cv));
    PADNAME *name = NULL;

    if (op->op_targ <= (PADOFFSET)PadnamelistMAX(known))
        name = PadnamelistARRAY(known)[op->op_targ];
    /* A variable without a name differs from every parameter that the caller supports. */
    av_push(names,
        name && PadnamePV(name) ? newSVpvn_flags(PadnamePV(name), PadnameLEN(name), SVf_UTF8)
                                : newSVpvs("?"));
}

/* The parameters of a signature. */
static void
push_signature(pTHX_ AV *names, CV *cv)
{
    OP *root = CvROOT(cv);
    OP *op = root;

    /* In the order of the source. Without recursion, because deeply nested code would exhaust the
     * C stack. */
    while (op) {
        OP *kid = first_kid(op);
        if (op->op_type == OP_ARGELEM)
            push_variable(aTHX_ names, cv, op);
        if (kid) {
            op = kid;
            continue;
        }
        while (op && op != root && !OpHAS_SIBLING(op))
            op = op_parent(op);
        op = op && op != root ? OpSIBLING(op) : NULL;
    }
}

/* The variables in `my (...) = @_`, if that is the first statement. */
static void
push_assigned(pTHX_ AV *names, CV *cv)
{
    OP *body = first_kid(CvROOT(cv));
    OP *first = body ? statement(first_kid(body)) : NULL;
    OP *right;
    OP *left;
    OP *source;

    if (!first || first->op_type != OP_AASSIGN)
        return;
    right = first_kid(first);
    left = right ? OpSIBLING(right) : NULL;
    source = left ? element(first_kid(right)) : NULL;
    if (!source || element(OpSIBLING(source)) || !is_arguments(aTHX_ cv, source))
        return;

    left = element(first_kid(left));
    for (OP *op = left; op; op = element(OpSIBLING(op)))
        if (!is_declaration(op))
            return;
    for (OP *op = left; op; op = element(OpSIBLING(op)))
        push_variable(aTHX_ names, cv, op);
}

/* The names of the parameters with their sigils, in order; empty if they cannot be determined. */
static AV *
parameters(pTHX_ CV *cv)
{
    AV *names = (AV *)sv_2mortal((SV *)newAV());

    /* A function in C, or one that is only declared, has no operations. */
    if (CvISXSUB(cv) || !CvROOT(cv))
        return names;
    push_signature(aTHX_ names, cv);
    if (av_count(names) == 0)
        push_assigned(aTHX_ names, cv);
    return names;
}

#endif
