# shellcheck shell=sh
# From nothing but a Python 3.11+ to a working .venv in this checkout. Sourced by scripts/test and
# scripts/demo, from the root of the checkout:
#
#     . scripts/bootstrap.sh
#     bootstrap test 'dev,bench,analytics'     # a name for the stamp, the extras to install
#
# Decides which Python is used, how the environment is made and when it is out of date. Never
# touches the system's Python. Costs a few milliseconds when nothing changed: an installation leaves
# a copy of pyproject.toml in .venv, and is repeated only once the two differ.

VENV=.venv
PY=$VENV/bin/python

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

check_links() {
    for folder in sequencer storage_nodes client functions; do
        [ -f "bokilog/$folder/__init__.py" ] || die "bokilog/$folder should be a symbolic link to" \
            "../$folder, which this copy lost: clone with git (on Windows: core.symlinks=true)"
    done
}

# A name on PATH proves little: version managers put shims there for versions that they do not have.
is_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Looks past a shim that fails: the first python of each name that runs, over all of PATH.
find_python() {
    for name in ${BOKILOG_PYTHON:+"$BOKILOG_PYTHON"} \
        python3.11 python3.12 python3.13 python3.14 python3 python; do
        case $name in
        */*) is_python "$name" && printf '%s\n' "$name" && return ;;
        esac
        old_ifs=$IFS
        IFS=:
        for folder in $PATH; do
            if [ -x "$folder/$name" ] && is_python "$folder/$name"; then
                IFS=$old_ifs
                printf '%s\n' "$folder/$name"
                return
            fi
        done
        IFS=$old_ifs
    done
    return 1
}

has() { command -v "$1" >/dev/null 2>&1; }
venv_works() { is_python "$PY" && "$PY" -m pip --version >/dev/null 2>&1; }

# Several ways, since Debian's Python comes without ensurepip and small images without more.
make_venv() {
    python=$1
    rm -rf "$VENV"
    if "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        "$python" -m venv "$VENV" >/dev/null 2>&1 && venv_works && return
    fi
    if has uv; then
        uv venv --quiet --seed --python "$python" "$VENV" >/dev/null 2>&1 &&
            venv_works && return
    fi
    for virtualenv in "$python -m virtualenv" virtualenv; do
        # shellcheck disable=SC2086  # a command and its arguments
        $virtualenv --quiet --python "$python" "$VENV" >/dev/null 2>&1 &&
            venv_works && return
    done
    for pip in "$python -m pip" pip3 pip; do
        rm -rf "$VENV"
        "$python" -m venv --without-pip "$VENV" >/dev/null 2>&1 || break
        $pip --python "$PY" install --quiet pip >/dev/null 2>&1 && venv_works && return
    done
    rm -rf "$VENV"
    return 1
}

ensure_venv() {
    if [ -e "$VENV/stamps/place" ]; then
        # A copied or moved environment runs, but its commands and our package lead to the old place.
        read -r place <"$VENV/stamps/place"
        [ "$place" = "$PWD" ] && is_python "$PY" && return
    elif venv_works; then
        return
    fi
    if [ -e "$VENV" ] && ! [ -e "$VENV/pyvenv.cfg" ]; then
        die "$VENV exists and is no virtual environment: move it away and run this again"
    fi
    if python=$(find_python); then
        say "making $VENV with $python ($("$python" -c 'import sys; print(sys.version.split()[0])'))"
        make_venv "$python" && return
        minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        die "$python can make no virtual environment with pip in it. On Debian and Ubuntu:" \
            "apt-get install python$minor-venv; anywhere: install uv. Then run this again."
    fi
    has uv || die "bokilog needs Python 3.11 or later, and none was found on PATH. On Debian and" \
        "Ubuntu: apt-get install python3 python3-venv; or set BOKILOG_PYTHON=/path/to/python"
    say "making $VENV with a Python that uv finds or brings"
    uv venv --quiet --seed --python '>=3.11' "$VENV" && venv_works ||
        die "uv made no working environment: install Python 3.11 or later and run this again"
}

bootstrap() {
    stamp=$VENV/stamps/$1.toml
    extras=$2
    check_links
    ensure_venv
    cmp -s pyproject.toml "$stamp" && return
    say "installing what '$1' needs into $VENV (once, until pyproject.toml changes)"
    "$PY" -m pip install -qq --disable-pip-version-check --root-user-action=ignore \
        --editable ".[$extras]" || die "the installation failed: see pip's message above"
    mkdir -p "$VENV/stamps"
    printf '%s\n' "$PWD" >"$VENV/stamps/place"
    cp pyproject.toml "$stamp"
}
