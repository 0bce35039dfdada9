# shellcheck shell=bash
# What the scripts share. Sourced, never run.

fail() {
    echo "error: $*" >&2
    exit 1
}

say() {
    echo "$*" >&2
}

# need NAME WHAT: the variable NAME must have a value.
need() {
    [ -n "${!1:-}" ] || fail "$1 is not set: $2. Give it as \`make … $1=…\` or in default.env"
}

# have PROGRAM WHY
have() {
    command -v "$1" >/dev/null || fail "\`$1\` is not installed: $2"
}

# Sets `plugins` to the argument that lets Terraform take the provider from a folder of this machine, if one has it;
# otherwise it is downloaded. TF_PLUGIN_DIR names such a folder.
find_plugins() {
    plugins=()
    local found=${TF_PLUGIN_DIR:-}
    if [ -z "$found" ]; then
        found=$(find / -xdev -maxdepth 6 -type d -path '*/hashicorp/aws' -not -path '*/.terraform/*' 2>/dev/null | head -n 1 || true)
        found=${found%/*/hashicorp/aws}
    fi
    # shellcheck disable=SC2034 # used by those who source this
    if [ -n "$found" ]; then plugins=("-plugin-dir=$found"); fi
}

# A configuration file that is named but not there gives a warning on each call.
if [ ! -e "${TF_CLI_CONFIG_FILE:-/dev/null}" ]; then unset TF_CLI_CONFIG_FILE; fi
export CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1 TF_INPUT=0
