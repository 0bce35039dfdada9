#!/bin/sh
# Starts a server, pushes events to two streams, and prints their join. BUZZ names the program.
set -eu

buzz=${BUZZ:-buzz}
case $buzz in */*) buzz=$(realpath "$buzz") ;; esac
script=$(realpath "$(dirname "$0")/join-streams.sql")
folder=$(mktemp -d)
cd "$folder"
BUZZ_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export BUZZ_KEY
"$buzz" serve --streams data/streams --listen 127.0.0.1:0 --postgres 127.0.0.1:0 2>server.log &
server=$!
trap 'kill $server 2>/dev/null || true; rm -rf "$folder"' EXIT
until grep -q '^HTTP: ' server.log; do
    kill -0 $server 2>/dev/null || { cat server.log >&2; exit 1; }
    sleep 0.1
done
address=$(sed -n 's/^HTTP: *//p' server.log)

# Pushes standard input to stream $1. A request that is sent again with its key counts once.
push() {
    curl --silent --show-error --fail --retry 5 --retry-connrefused --header "Authorization: Bearer $BUZZ_KEY" \
        --header "Idempotency-Key: $2" --header 'Content-Type: application/x-ndjson' --data-binary @- "$address/v1/streams/$1" >&2
    echo >&2
}

# 10,000 clicks and 10 purchases of user 1, one purchase of user 2, who clicks once, and a click of user 3, who buys nothing.
seq 1 10000 | sed 's|.*|{"user_id": 1, "page": "/&", "ts": "2026-01-01T00:00:00.5"}|' | push clicks clicks-1
seq 1 10 | sed 's|.*|{"user_id": 1, "amount": 0.10, "ts": "2026-01-01T00:00:00.7"}|' | push purchases purchases-1
for again in 1 2 3; do
    echo '{"user_id": 2, "page": "/", "ts": "2026-01-01T00:00:01"}' | push clicks clicks-2
    echo '{"user_id": 2, "amount": 9.99, "ts": "2026-01-01T00:00:01.9"}' | push purchases purchases-2
done
echo '{"user_id": 3, "page": "/", "ts": "2026-01-01T00:00:01"}' | push clicks clicks-3

"$buzz" stream run "$script" --until-end
