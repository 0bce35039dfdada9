#!/usr/bin/env bash
# package.sh [lambdas] [hcomb]: builds the packages of a deployment; without an argument both kinds.
#
# Functions: one zip each, with the static program as `bootstrap`. Combs: one image with only the static program and the
# certificate authorities. Names contain the hash of the content, so unchanged packages are not deployed again.
# $PACKAGES/packages.env lists the packages.
#
#   ARCH        x86_64 (default) or arm64
#   BINARIES    a folder with fuse_lambda, hbee_lambda and hcomb, instead of building them
#   PACKAGES    output folder; by default below CARGO_TARGET_DIR
#   IMAGE_TOOL  docker, podman or buildah; by default the first that works
set -euo pipefail
cd "$(dirname "$0")/../.."
. infra/bin/lib.sh

ARCH=${ARCH:-x86_64}
parts=" ${*:-lambdas hcomb} "
: "${CARGO_TARGET_DIR:=$HOME/.cache/buzz-target}"
export CARGO_TARGET_DIR
PACKAGES=${PACKAGES:-$CARGO_TARGET_DIR/packages/$ARCH}
case $ARCH in
x86_64) machine=x86_64 format=X86-64 ;;
arm64) machine=aarch64 format=AArch64 ;;
*) fail "ARCH is \`$ARCH\`; it can be x86_64 or arm64" ;;
esac
mkdir -p "$PACKAGES"

# Prints all sources, in the same order on every machine, and the version of the compiler.
sources() {
    find Cargo.toml Cargo.lock code -name '*.rs' -o -name 'Cargo.*' -o -path 'code/data/catalog/lists/*' -o -name prices.csv | LC_ALL=C sort | tr '\n' '\0' | xargs -0 cat
    rustc --version
}

# Builds the three static programs and sets BINARIES. On Linux with the same processor and glibc 2.34 the usual toolchain is enough;
# elsewhere cargo-zigbuild provides a linker and a C library.
build() {
    local target tool=build flags="-C target-feature=+crt-static"
    # A static program of glibc before 2.34 resolves names only with libraries of the same version, which a function lacks.
    local glibc
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/.* //' || true)
    if [ "$(uname -s)-$(uname -m)" = "Linux-$machine" ] && [ "$(printf '%s\n2.34\n' "${glibc:-0}" | sort -V | head -n 1)" = 2.34 ]; then
        target=$machine-unknown-linux-gnu
    else
        target=$machine-unknown-linux-musl tool=zigbuild
        have cargo-zigbuild "programs for $ARCH Linux cannot be linked on $(uname -s) $(uname -m)${glibc:+ with glibc $glibc} without it: \`pip install cargo-zigbuild\`, then \`rustup target add $target\`"
    fi
    say "building for $ARCH; the first time takes about 40 minutes on two cores …"
    # Programs would contain the path of this folder. Paths of the sources of Buzz are relative to its root.
    flags+=" --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    export BUZZ_BUILD RUSTFLAGS=$flags
    BUZZ_BUILD=$(sources | hash_of -)
    cargo "$tool" --profile small --target "$target" --workspace --bin fuse_lambda
    # HBee and comb are built separately, so that their libraries do not include the SQL parser.
    cargo "$tool" --profile small --target "$target" --package buzz-worker --bins
    BINARIES=$CARGO_TARGET_DIR/$target/small
}

# Libraries that Amazon Linux 2023 provides.
SYSTEM_LIBRARIES='libc|libm|libdl|librt|libpthread|libgcc_s|ld-linux-x86-64|ld-linux-aarch64'

# Rejects a program that cannot run on its target: Amazon Linux 2023 has glibc 2.34 and few libraries, and an empty
# image has no libraries.
check_program() { # FILE STATIC?
    local head libraries others needed
    [ -f "$1" ] || fail "\`$1\` does not exist: BINARIES must hold fuse_lambda, hbee_lambda and hcomb"
    have readelf "it tells which C library a program needs (Debian: binutils)"
    # In variables, since a pipe that is closed early fails intermittently.
    head=$(readelf -h "$1" 2>/dev/null || true)
    [[ $head == *"Machine:"*"$format"* ]] || fail "\`$1\` is not a program for $ARCH Linux"
    libraries=$(readelf -d "$1" 2>/dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
    if [ "$2" = static ] && [ -n "$libraries" ]; then
        fail "\`$1\` needs shared libraries, of which its image has none: build it static (-C target-feature=+crt-static)"
    fi
    others=$(grep -Ev "^($SYSTEM_LIBRARIES)\.so" <<<"$libraries" | tr '\n' ' ' || true)
    [ -z "${others// /}" ] || fail "\`$1\` needs ${others% }, which Amazon Linux 2023 does not have"
    needed=$(readelf -V "$1" 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1 || true)
    if [ -n "$needed" ] && [ "$(printf '%s\nGLIBC_2.34\n' "$needed" | sort -V | tail -n 1)" != GLIBC_2.34 ]; then
        fail "\`$1\` needs $needed; Amazon Linux 2023 has GLIBC_2.34"
    fi
    if grep -aq '[0-9]+df55' "$1"; then
        echo "warning: \`$1\` was built without \`BUZZ_BUILD\`: programs of two deployments do not recognise that they differ. \`make package\` without BINARIES sets it" >&2
    fi
}

hash_of() { # FILE…: prints the hash of the concatenated contents
    cat "$@" | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c 1-16
}

zip_function() { # fuse|hbee: sets `made`
    local binary=$BINARIES/${1}_lambda
    check_program "$binary" any
    made=$PACKAGES/$1-$(hash_of "$binary").zip
    [ -f "$made" ] || python3 infra/bin/zip.py "$binary" "$made"
    # AWS rejects larger functions, packed or unpacked.
    local unpacked
    unpacked=$(wc -c <"$binary")
    [ "$unpacked" -le 262144000 ] || fail "\`$binary\` has $((unpacked / 1048576)) MB; a function may have 250. Debug builds are too large: leave BINARIES out"
    say "$made: $(($(wc -c <"$made") / 1048576)) MB, $((unpacked / 1048576)) MB unpacked"
}

build_image() { # sets `tag`
    check_program "$BINARIES/hcomb" static
    local tool folder authorities
    authorities=$(certificates)
    tool=$(image_tool)
    folder=$(mktemp -d)
    # shellcheck disable=SC2064 # expands the folder now
    trap "rm -rf '$folder'" EXIT
    cp "$BINARIES/hcomb" "$folder/program"
    cp "$authorities" "$folder/ca-certificates.crt"
    chmod 755 "$folder/program"
    chmod 644 "$folder/ca-certificates.crt"
    tag=$(hash_of "$folder/program" "$folder/ca-certificates.crt" docker/Dockerfile)
    if ! "$tool" inspect "localhost/buzz-rust-hcomb:$tag" >/dev/null 2>&1; then
        case $tool in
        buildah) buildah bud --isolation chroot --timestamp 0 --platform "linux/${machine/x86_64/amd64}" -t "localhost/buzz-rust-hcomb:$tag" -f docker/Dockerfile "$folder" >&2 ;;
        podman) podman build --isolation chroot --timestamp 0 --platform "linux/${machine/x86_64/amd64}" -t "localhost/buzz-rust-hcomb:$tag" -f docker/Dockerfile "$folder" >&2 ;;
        docker) BUILDX_NO_DEFAULT_ATTESTATIONS=1 SOURCE_DATE_EPOCH=0 docker build --platform "linux/${machine/x86_64/amd64}" -t "localhost/buzz-rust-hcomb:$tag" -f docker/Dockerfile "$folder" >&2 ;;
        esac
    fi
    say "image localhost/buzz-rust-hcomb:$tag ($tool): $((($(wc -c <"$folder/program") + $(wc -c <"$folder/ca-certificates.crt")) / 1048576)) MB"
}

[ -n "${BINARIES:-}" ] || build
made='' tag=''
if [[ $parts == *" lambdas "* ]]; then
    zip_function fuse && fuse=$made
    zip_function hbee && hbee=$made
fi
if [[ $parts == *" hcomb "* ]]; then build_image; fi
{
    if [ -n "${fuse:-}" ]; then echo "FUSE_ZIP=$fuse"; else grep '^FUSE_ZIP=' "$PACKAGES/packages.env" 2>/dev/null || true; fi
    if [ -n "${hbee:-}" ]; then echo "HBEE_ZIP=$hbee"; else grep '^HBEE_ZIP=' "$PACKAGES/packages.env" 2>/dev/null || true; fi
    if [ -n "$tag" ]; then echo "COMB_IMAGE_TAG=$tag"; else grep '^COMB_IMAGE_TAG=' "$PACKAGES/packages.env" 2>/dev/null || true; fi
} >"$PACKAGES/packages.env.new"
mv "$PACKAGES/packages.env.new" "$PACKAGES/packages.env"
