# shellcheck shell=bash disable=SC2154 # debian/check.d/suite sets the other variables
# Runs checks and records their outcomes. Uses: log, results, suite.

# Exit code of a check that is skipped.
readonly SKIPPED=77
# Number of lines of output that are printed for a failed check.
readonly SHOWN=40

declare -A outcome_of=()

# check NAME REQUIRED FUNCTION...
#
# Runs the function in a subshell with errexit. Its output goes to the log. Prints one line with the outcome and with
# the notes of the function, which it writes to descriptor 3. Skips the function if the check REQUIRED has not succeeded.
check() {
    local name=$1 required=$2 started=$SECONDS cpu output outcome notes
    cpu=$(cpu_seconds)
    shift 2
    output=$(mktemp)
    if [ -n "$required" ] && [ "${outcome_of[$required]-}" != ok ]; then
        outcome=skipped
        notes="$required has not succeeded"
    else
        # Not in a condition: bash ignores errexit in commands whose exit code a condition tests.
        (
            set -e
            "$@"
        ) >"$output" 2>&1 3>"$output.notes"
        case $? in
            0) outcome=ok ;;
            "$SKIPPED") outcome=skipped ;;
            *) outcome=FAILED ;;
        esac
        notes=$(paste -s -d ' ' "$output.notes")
    fi
    outcome_of[$name]=$outcome
    printf '%s\t%s\t%d\t%d\t%s\n' "$outcome" "$name" $((SECONDS - started)) $(($(cpu_seconds) - cpu)) "$notes" \
        >>"$results"
    printf '%-8s %s: %s%s\n' "$outcome" "$suite" "$name" "${notes:+ ($notes)}"
    {
        printf '==== %s: %s\n' "$name" "$outcome"
        cat "$output"
    } >>"$log"
    [ "$outcome" != FAILED ] || tail -n "$SHOWN" "$output" | sed 's/^/    /'
    rm -f "$output" "$output.notes"
}

# The CPU time of this shell's ended children: proc(5), cutime and cstime.
cpu_seconds() {
    awk -v ticks="$(getconf CLK_TCK)" '{ printf "%d\n", ($16 + $17) / ticks }' "/proc/$$/stat"
}

# Adds a note to the line of the running check.
note() {
    printf '%s\n' "$*" >&3
}

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

skip() {
    note "$*"
    exit "$SKIPPED"
}

# True if no check has failed. Checks that require a failed one are skipped.
none_failed() {
    ! grep -q '^FAILED' "$results"
}
