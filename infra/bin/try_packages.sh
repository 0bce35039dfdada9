#!/usr/bin/env bash
# Starts the packages of `make package` as AWS does. The program of each zip runs under AWS's Runtime Interface
# Emulator, in a root folder with only devices and certificate authorities, at their paths in Amazon Linux. The image
# runs with podman or docker.
#
# Fuse must answer a query, the HBee must reject an invalid task, and the comb must pass its health check. Then they run
# a query together in the local cloud: the functions as processes, and two combs, which reduce, as containers.
#
#   BINARIES       a folder with localcloud and buzz, instead of building them
#   IMAGE          the combs' image, by default the one of `make package`
#   RUN_ARGUMENTS  additional arguments to run the image
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
started=() label=buzz-try=$$
# shellcheck disable=SC2317 # called on exit
stop() {
    local process
    for process in "${started[@]}"; do
        pkill -P "$process" || true
        kill "$process" 2>/dev/null || true
    done
    # shellcheck disable=SC2046 # several
    [ -z "${tool:-}" ] || "$tool" rm --force $("$tool" ps --all --quiet --filter "label=$label") >/dev/null 2>&1 || true
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

# Serves the function of a zip and sets `port` to its port.
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
[[ $answer == *errorType* ]] || { cat "$work"/*.log >&2; fail "the HBee did not refuse what is not a task: $answer"; }
say "the HBee's zip, alone in its root folder, refuses what is not a task: $answer"

tool=$(image_tool)
[ "$tool" != buildah ] || fail "images are started with podman or docker"
image=${IMAGE:-localhost/buzz-rust-hcomb:$COMB_IMAGE_TAG}
# As on Fargate, only /tmp is writable. Any user may set these limits.
run=("$tool" run --network host --read-only --tmpfs /tmp --label "$label" --ulimit nofile=16384 --ulimit nproc=16384)
# shellcheck disable=SC2206 # several arguments, if any
run+=(${RUN_ARGUMENTS:-})
container=$("${run[@]}" --detach --env BUZZ_COMB_PORT="$(free_port)" "$image")
healthy=
for _ in $(seq 50); do
    if "$tool" exec "$container" /hcomb health >/dev/null 2>&1; then
        healthy=1
        break
    fi
    sleep 0.2
done
[ -n "$healthy" ] || { "$tool" logs "$container" >&2; fail "the comb's image does not become healthy"; }
"$tool" rm --force "$container" >/dev/null
say "the comb's image runs and is healthy"

if [ -z "${BINARIES:-}" ]; then
    cargo build --workspace --bins
    BINARIES=$CARGO_TARGET_DIR/debug
fi
programs=$work/programs
mkdir "$programs"
for role in fuse hbee; do
    packed=${role^^}_ZIP
    python3 -m zipfile -e "${!packed}" "$programs"
    chmod 755 "$programs/bootstrap"
    mv "$programs/bootstrap" "$programs/${role}_lambda"
done
# Replaces the combs' program, which runs with the variables of the task definition only.
cat >"$programs/hcomb" <<END
#!/usr/bin/env bash
variables=()
for name in \$(compgen -e | grep -E '^(BUZZ|AWS)_'); do variables+=(--env "\$name"); done
export PATH=$PATH HOME=$HOME
exec ${run[*]} --rm "\${variables[@]}" $image
END
chmod 755 "$programs/hcomb"

sample=$work/sample place=s3://buzz-local/trips
"$BINARIES/buzz" sample "$sample" --rows 60000
sql='SELECT payment_type, COUNT(*) AS n, MIN(pickup_at) AS first, COUNT(DISTINCT dropoff_at) AS ends FROM trips GROUP BY payment_type ORDER BY payment_type'
expected=$("$BINARIES/buzz" sql "$sql" --table "trips=$sample" --format csv)
told=$("$BINARIES/localcloud" run --folder "$work/cloud" --programs "$programs" --upload "$sample=$place" -- \
    "$BINARIES/buzz" sql "$sql" --table "trips=$place" --stack local --zones 2 --set reducer=comb --set tasks=8 --format csv) ||
    { cat "$work"/cloud/logs/*/* >&2; fail "the packages do not answer a query"; }
[ "$told" = "$expected" ] || fail "the packages answer: $told; and one process: $expected"
combs=$(grep -l '"serving"' "$work"/cloud/logs/buzz-rust-hcomb-local/* | wc -l)
[ "$combs" = 2 ] || fail "$combs containers served, not 2"
say "the functions as processes and two combs as containers answer a query as one process does:"
say "$told"
