#!/usr/bin/env bash
# Starts what `make package` made as AWS would: each zip's program under AWS's own Runtime Interface Emulator, in a root
# folder that holds nothing else but devices and certificate authorities, where Amazon Linux has them, and the image with
# podman or docker. Fuse must answer a query, the HBee must refuse a task that is none, the comb must tell that it is
# healthy.
set -euo pipefail
cd "$(dirname "$0")/../.."
. infra/bin/lib.sh

: "${CARGO_TARGET_DIR:=$HOME/.cache/buzz-target}" "${ARCH:=x86_64}"
PACKAGES=${PACKAGES:-$CARGO_TARGET_DIR/packages/$ARCH}
[ -f "$PACKAGES/packages.env" ] || fail "there are no packages in $PACKAGES: \`make package\` first"
# shellcheck disable=SC1091 # made by package.sh
. "$PACKAGES/packages.env"
[ "$(id -u)" = 0 ] || fail "an empty root folder needs root's rights"

work=$(mktemp -d)
started=() container=''
# shellcheck disable=SC2317 # called at the end, whatever that is
stop() {
    local process
    for process in "${started[@]}"; do
        pkill -P "$process" || true
        kill "$process" 2>/dev/null || true
    done
    [ -z "$container" ] || "$tool" rm --force "$container" >/dev/null 2>&1 || true
    sleep 0.2
    rm -rf "$work"
}
trap stop EXIT

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

tools=$(infra/bin/tools.sh moto 'moto[server]==5.2.*' 'awscli==1.*')
emulator=$(dirname "$tools")/aws-lambda-rie
if [ ! -x "$emulator" ]; then
    say "fetching the Runtime Interface Emulator …"
    "$tools/pip" download --quiet --no-deps --dest "$work/wheel" aws-sam-cli
    "$tools/python" -m zipfile -e "$work"/wheel/*.whl "$work/wheel"
    install -m 755 "$work/wheel/samcli/local/rapid/aws-lambda-rie-$ARCH" "$emulator"
fi

authorities=$(certificates)
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_REGION=us-east-2 AWS_DEFAULT_REGION=us-east-2

# Sets `port` to where the zip's function is served.
serve() { # ZIP NAME=VALUE…
    local root=$work/${1##*/} api
    mkdir -p "$root/tmp" "$root/dev" "$root/etc/pki/tls/certs"
    cp "$authorities" "$root/etc/pki/tls/certs/ca-bundle.crt"
    python3 -m zipfile -e "$1" "$root"
    chmod 755 "$root/bootstrap"
    install -m 755 "$emulator" "$root/emulator"
    mknod -m 666 "$root/dev/null" c 1 3
    mknod -m 666 "$root/dev/random" c 1 8
    mknod -m 666 "$root/dev/urandom" c 1 9
    port=$(free_port) api=$(free_port)
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "${@:2}" AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_REGION=us-east-2 \
        AWS_LAMBDA_FUNCTION_NAME=function AWS_LAMBDA_FUNCTION_TIMEOUT=60 AWS_LAMBDA_FUNCTION_MEMORY_SIZE=2048 BUZZ_STAGE=try \
        chroot "$root" /emulator --log-level error --runtime-interface-emulator-address "127.0.0.1:$port" \
        --runtime-api-address "127.0.0.1:$api" /bootstrap >"$root.log" 2>&1 &
    started+=("$!")
    for _ in $(seq 50); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
        sleep 0.1
    done
    cat "$root.log" >&2
    fail "the emulator does not start"
}

invoke() { # PORT EVENT
    echo "$2" >"$work/event.json"
    "$tools/aws" --endpoint-url "http://127.0.0.1:$1" lambda invoke --function-name function --cli-read-timeout 60 \
        --payload "fileb://$work/event.json" "$work/answer.json" >/dev/null || { cat "$work"/*.log >&2; fail "it cannot be invoked"; }
    cat "$work/answer.json"
}

serve "$FUSE_ZIP" BUZZ_RESULTS=s3://bucket/results/ BUZZ_HBEE_FUNCTION=hbee AWS_ENDPOINT_URL=http://127.0.0.1:9
answer=$(invoke "$port" '{"sql": "SELECT 6 * 7 AS answer", "catalogs": []}')
[[ $answer == *'"answer":42'* ]] || { cat "$work"/*.log >&2; fail "Fuse did not answer 42 but: $answer"; }
say "Fuse's zip, alone in its root folder, answers a query"

serve "$HBEE_ZIP" AWS_ENDPOINT_URL=http://127.0.0.1:9
answer=$(invoke "$port" '{"task": {"no": "task"}}')
[[ $answer == *errorType* ]] || { cat "$work"/*.log >&2; fail "the HBee did not refuse what is no task: $answer"; }
say "the HBee's zip, alone in its root folder, refuses what is no task: $answer"

tool=$(image_tool)
[ "$tool" != buildah ] || fail "images are started with podman or docker"
# shellcheck disable=SC2086 # several arguments, if any
container=$("$tool" run --detach --network host --env BUZZ_COMB_PORT="$(free_port)" ${RUN_ARGUMENTS:-} "localhost/buzz-rust-hcomb:$COMB_IMAGE_TAG")
for _ in $(seq 50); do
    if "$tool" exec "$container" /hcomb health >/dev/null 2>&1; then
        say "the comb's image runs and is healthy"
        exit 0
    fi
    sleep 0.2
done
"$tool" logs "$container" >&2
fail "the comb's image does not become healthy"
