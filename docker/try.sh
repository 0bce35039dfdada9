#!/usr/bin/env bash
# Runs the taxi example in two containers: one with the local cloud and Buzz's roles, one with the client.
#
#   BINARIES  a folder with localcloud, fuse_lambda, hbee_lambda, hcomb and buzz, instead of building them
#   COMPOSE   the program, by default `docker compose` or `podman-compose`
set -euo pipefail
cd "$(dirname "$0")/.."
. infra/bin/lib.sh

: "${CARGO_TARGET_DIR:=$HOME/.cache/buzz-target}" "${SAMPLE:=data/nyc-taxi-daily}"
programs=(localcloud fuse_lambda hbee_lambda hcomb buzz)

if [ -z "${COMPOSE:-}" ]; then
    if docker compose version >/dev/null 2>&1 && docker version >/dev/null 2>&1; then
        COMPOSE='docker compose'
    else
        have podman-compose "the containers are run with it, or with \`docker compose\`"
        COMPOSE=podman-compose
    fi
fi
if [ -z "${BINARIES:-}" ]; then
    cargo build --workspace --bins
    BINARIES=$CARGO_TARGET_DIR/debug
fi
[ -d "$SAMPLE" ] || "$BINARIES/buzz" sample "$SAMPLE"

folder=data/docker
rm -rf "$folder"
mkdir -p "$folder"/{root,programs,sample,examples}
cp docker/local.Dockerfile "$folder/Dockerfile"
cp -r "$SAMPLE/." "$folder/sample"
cp code/examples/*.json "$folder/examples"
install -D -m 644 "$(certificates)" "$folder/root/etc/ssl/certs/ca-certificates.crt"
for program in "${programs[@]}"; do
    [ -f "$BINARIES/$program" ] || fail "\`$BINARIES/$program\` is not there"
    strip -o "$folder/programs/$program" "$BINARIES/$program"
    # Copies the shared libraries of a dynamic program to their original paths.
    for library in $(ldd "$BINARIES/$program" 2>/dev/null | grep -o '/[^ ]*' || true); do
        [ -f "$folder/root$library" ] || install -D "$library" "$folder/root$library"
    done
done

compose() {
    # shellcheck disable=SC2086 # may be two words
    $COMPOSE --file docker/compose.yaml "$@"
}
trap 'compose down >/dev/null 2>&1 || true' EXIT
compose build >&2
compose down >/dev/null 2>&1 || true # containers of an earlier run
compose up --detach cloud >&2
for _ in $(seq 60); do
    if compose logs cloud 2>&1 | grep -q 'The local cloud is at'; then break; fi
    sleep 0.5
done
compose run --rm --no-deps -T query
