# shellcheck shell=bash
# Functions that the scripts share. Sourced, never run.

fail() {
    echo "error: $*" >&2
    exit 1
}

say() {
    echo "$*" >&2
}

# need NAME WHAT: fails unless the variable NAME has a value.
need() {
    [ -n "${!1:-}" ] || fail "$1 is not set: $2. Give it as \`make … $1=…\` or in default.env"
}

# have PROGRAM WHY: fails unless PROGRAM is installed.
have() {
    command -v "$1" >/dev/null || fail "\`$1\` is not installed: $2"
}

# Sets `plugins` to the argument that makes Terraform load the provider from the folder TF_PLUGIN_DIR, if it is set.
# Otherwise Terraform downloads it once for all stages.
find_plugins() {
    plugins=()
    if [ -n "${TF_PLUGIN_DIR:-}" ]; then
        # shellcheck disable=SC2034 # used by scripts that source this file
        plugins=("-plugin-dir=$TF_PLUGIN_DIR")
    elif [ -z "${TF_PLUGIN_CACHE_DIR:-}" ]; then
        export TF_PLUGIN_CACHE_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/buzz-tools/terraform
        mkdir -p "$TF_PLUGIN_CACHE_DIR"
    fi
}

# Sets TF_PLUGIN_DIR to a folder of this machine that has the provider, if there is one, so that checks need no network. A
# deployment does not search: a forgotten folder must not decide which provider makes a stack.
search_plugins() {
    if [ -n "${TF_PLUGIN_DIR:-}" ]; then return; fi
    local found
    found=$(find / -xdev -maxdepth 7 -type d -path '*/hashicorp/aws/5.100.*' -not -path '*/.terraform/*' -not -path '*/buzz-tools/*' 2>/dev/null | head -n 1 || true)
    if [ -n "$found" ]; then export TF_PLUGIN_DIR=${found%/*/hashicorp/aws/*}; fi
}

# A configuration file that does not exist causes a warning on each call.
if [ ! -e "${TF_CLI_CONFIG_FILE:-/dev/null}" ]; then unset TF_CLI_CONFIG_FILE; fi
export CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1 TF_INPUT=0

# Prints the program that builds and pushes images: IMAGE_TOOL, or the first that works. Docker works only with a
# running engine.
image_tool() {
    local tool
    for tool in ${IMAGE_TOOL:-docker podman buildah}; do
        case $tool in
        docker) if docker version >/dev/null 2>&1; then echo docker && return; fi ;;
        podman | buildah) if command -v "$tool" >/dev/null; then echo "$tool" && return; fi ;;
        *) fail "IMAGE_TOOL is \`$tool\`; it can be docker, podman or buildah" ;;
        esac
    done
    fail "no program to build images with works here: ${IMAGE_TOOL:-docker (with its engine), podman or buildah}"
}

# need_stage: fails unless all variables that every verb needs are set. The error names all missing ones.
need_stage() {
    local missing=()
    [ -n "${STAGE:-}" ] || missing+=("STAGE (a stage of infra/env/conf.tf, as dev)")
    [ -n "${REGION:-}" ] || missing+=("REGION (an AWS region, as us-east-2)")
    if [ ${#missing[@]} -gt 0 ]; then
        printf 'error: not set: %s\n' "${missing[@]}" >&2
        fail "give them as \`make … STAGE=dev REGION=us-east-2\` or in default.env; default.env.example explains each"
    fi
    [[ $STAGE =~ ^[a-z][a-z0-9-]{0,15}$ ]] || fail "STAGE is \`$STAGE\`; a stage is up to 16 small letters, digits and hyphens"
    have aws "it is the AWS command line (Python: awscli)"
    export AWS_REGION=$REGION AWS_DEFAULT_REGION=$REGION AWS_PAGER=
    if [ -n "${DEPLOY_PROFILE:-}" ]; then export AWS_PROFILE=$DEPLOY_PROFILE; fi
}

# Prints the account of the stack. This is the first request to AWS, so it fails if there are no credentials.
account() {
    local id
    id=$(aws sts get-caller-identity --query Account --output text) ||
        fail "AWS does not accept the caller, with ${DEPLOY_PROFILE:+profile \`$DEPLOY_PROFILE\` of }the usual credentials: log in, or set DEPLOY_PROFILE"
    echo "$id"
}

# confirm QUESTION: requires the answer yes, unless AUTO_APPROVE=1.
confirm() {
    [ "${AUTO_APPROVE:-}" != 1 ] || return 0
    [ -t 0 ] || fail "this needs an approval, and the input is not a terminal: AUTO_APPROVE=1 approves"
    local answer
    read -r -p "$1 [y/N] " answer
    [[ $answer =~ ^[yY] ]] || fail "nothing was changed"
}

# Prints the file of this machine's certificate authorities, which the SDK requires to start.
certificates() {
    local file
    for file in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        if [ -s "$file" ]; then
            echo "$file"
            return
        fi
    done
    fail "no certificate authorities found: install ca-certificates, or name a file in SSL_CERT_FILE"
}
