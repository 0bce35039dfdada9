#!/usr/bin/env bash
# Checks format and validity of the infrastructure and runs its tests with a mocked provider, without an account.
set -euo pipefail
cd "$(dirname "$0")/../.."
. infra/bin/lib.sh

python3 infra/tests/permissions.py
python3 infra/tests/packages.py
python3 infra/tests/verbs.py
python3 infra/tests/doctor.py
python3 infra/tests/versions.py
if command -v shellcheck >/dev/null; then
    shellcheck --external-sources infra/bin/*.sh docker/*.sh code/examples/*.sh
else
    say "shell scripts: skipped: shellcheck is not installed"
fi
# TF=tofu takes OpenTofu in place of Terraform, as the verbs do.
: "${TF:=terraform}"
if ! command -v "$TF" >/dev/null; then
    say "infrastructure: skipped: $TF is not installed"
    exit 0
fi
cd infra
"$TF" fmt -check -recursive . || fail "the files above are not formatted: \`$TF fmt -recursive infra\`"

# A data folder of its own, since that of deployments is configured with a backend.
export TF_DATA_DIR=$PWD/.terraform/check TF_WORKSPACE=dev
mkdir -p .terraform
search_plugins
find_plugins
"$TF" init -backend=false ${plugins[@]+"${plugins[@]}"} -no-color >"$TF_DATA_DIR.log" 2>&1 || {
    cat "$TF_DATA_DIR.log" >&2
    fail "$TF init failed"
}
"$TF" validate -no-color
"$TF" test -no-color
