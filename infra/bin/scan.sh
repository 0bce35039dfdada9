#!/usr/bin/env bash
# Scans the configuration for what is commonly held to be unsafe. What is meant as it is stands with its reason in
# infra/scan.yaml.
set -euo pipefail
cd "$(dirname "$0")/../.."
. infra/bin/lib.sh
tools=$(infra/bin/tools.sh checkov 'checkov==3.*')
cd infra
unset LOG_LEVEL # of Buzz; the scanner has a setting of that name
"$tools/checkov" --config-file scan.yaml --directory . --framework terraform --compact --quiet --skip-download
say "scan: nothing beyond the exceptions of infra/scan.yaml"
