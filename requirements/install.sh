#!/usr/bin/env bash
# Sets up the virtual environment; `make setup` calls it. Run again, it completes what is missing, and
# where nothing is missing it installs nothing and needs no network.
#   VENV          where the environment goes                (default .venv)
#   PYTHON        the Python 3.10-3.13 to make it with      (default: the first suitable one)
#   REQUIREMENTS  the file of runtime packages to install   (default requirements/runtime.txt)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}
runtime=${REQUIREMENTS:-requirements/runtime.txt}
lists=("$runtime" requirements/constraints.txt requirements/detectron2.txt requirements/dev.txt)
step="starting"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; trap - EXIT; exit 1; }
trap 'code=$?; [ $code = 0 ] || echo "setup: stopped while $step; run it again to go on from there" >&2' EXIT

# What a Python lacks to make the environment: an empty answer for a suitable one, and none where the
# command does not run at all (a pyenv shim without its version, say).
lack() {
  "$1" -c 'import sys
version = sys.version_info[:2]
if not (3, 10) <= version <= (3, 13):
    print("is Python %d.%d; 3.10 to 3.13 will do" % version)
else:
    try:
        import ensurepip, venv
        print("")
    except ImportError:
        print("is Python %d.%d without venv and pip; on Debian: apt install python%d.%d-venv" % (version * 2))' \
    2>/dev/null || echo "does not run (a pyenv shim of a version that is not active?)"
}

find_python() {
  local candidate reason reasons="" candidates=(python3 python3.13 python3.12 python3.11 python3.10)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    command -v "$candidate" >/dev/null || { reasons+="  $candidate: not found"$'\n'; continue; }
    reason=$(lack "$candidate")
    if [ -z "$reason" ]; then python=$candidate; return; fi
    reasons+="  $candidate $reason"$'\n'
  done
  fail "no suitable Python:
${reasons}Install Python 3.10, 3.11, 3.12 or 3.13 with venv and pip (Debian and Ubuntu: apt install python3 python3-venv;
anywhere: 'pyenv install 3.12' or 'uv python install 3.12'), then: make setup PYTHON=/path/to/python3.12"
}

short_version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'; }
made_with() { sed -n 's/^version *= *//p' "$venv/pyvenv.cfg" 2>/dev/null || true; }
checksum() { cat "$@" | cksum | tr ' ' '-'; }

make_venv() {
  local wanted=""
  if [ -n "${PYTHON:-}" ]; then wanted=$(short_version "$PYTHON" 2>/dev/null || echo none); fi
  if [ -e "$venv/.setup-started" ]; then
    say "an earlier set-up of $venv was interrupted, so it is made afresh"
  elif [ -x "$venv/bin/python" ] && [ -e "$venv/bin/pip" ]; then
    if [ "${wanted:-$(made_with)}" = "$(made_with)" ]; then return; fi
  fi
  if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
    fail "$venv is there and is no virtual environment; name another with VENV=..., or move it away"
  fi
  find_python
  step="making $venv"
  say "$venv with Python $(short_version "$python")"
  "$python" -m venv --clear "$venv"
}

pip_install() { "$venv/bin/python" -m pip install -qq --no-warn-conflicts "$@"; }

# Plain pip refuses a wheel that is tagged for another Python, unless it installs into a folder.
install_detectron2() {
  local purelib pin metadata
  pin=$(grep '==' requirements/detectron2.txt)
  if "$venv/bin/python" -m pip freeze | grep -qx "$pin"; then return; fi
  purelib=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  pip_install --no-deps --upgrade --target "$purelib" --python-version 3.10 --implementation cp \
    --abi none --platform any --only-binary=:all: "$pin"
  # It says that it needs black, which only prints lazy configs, and numpy below 2, which it does not:
  # pip would call this environment broken, and put an old numpy into it with the next package.
  for metadata in "$purelib"/sal_detectron2-*.dist-info/METADATA; do
    [ ! -f "$metadata" ] || sed -i -e '/^Requires-Dist: black$/d' -e '/^Requires-Dist: numpy<2$/d' "$metadata"
  done
}

install_packages() {
  touch "$venv/.setup-started"  # stays after an interruption: pip takes half-copied packages for whole
  step="installing the packages of $runtime"
  say "installing packages (torch and its CUDA libraries are about 3 GB to download, 6 GB on disk)"
  pip_install --requirement requirements/dev.txt "$(grep '^setuptools==' "$runtime")"
  pip_install --requirement "$runtime"
  step="installing detectron2"
  say "installing detectron2"
  install_detectron2
  step="checking the installation"
  "$venv/bin/python" -W ignore -c '
import sys, torch, torchvision
from detectron2.modeling import build_model
print("setup: Python %d.%d, torch %s, torchvision %s, detectron2: ready"
      % (*sys.version_info[:2], torch.__version__, torchvision.__version__))'
  rm "$venv/.setup-started"
}

install_project() {
  step="installing transfer_maskrcnn"
  say "installing transfer_maskrcnn from this folder, editable"
  pip_install --no-deps --no-build-isolation --editable .
}

# once NAME KEY COMMAND: runs the command unless it succeeded before under the same key.
once() {
  local stamp="$venv/.setup-$1"
  [ "$(cat "$stamp" 2>/dev/null)" = "$2" ] && return
  rm -f "$stamp"
  "$3"
  echo "$2" >"$stamp"
  changed=yes
}

main() {
  [ -r "$runtime" ] || fail "no requirements file $runtime"
  changed=no
  make_venv
  once packages "$(made_with) $runtime $(checksum "${lists[@]}")" install_packages
  once project "$PWD $(checksum setup.py transfer_maskrcnn/__init__.py \
    transfer_maskrcnn/modeling/roi_*.[ch])" install_project
  [ $changed = no ] || say "done in $SECONDS s; run things with $venv/bin/python"
  exit 0
}

main  # by now bash has read the whole file: it may change under a running set-up
