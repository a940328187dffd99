#!/usr/bin/env bash
# Makes the environment of tests/data/export/test_peers.py; `make peers` calls it. Run again, it
# installs nothing.
#   VENV   the project's environment, whose packages are shared  (default .venv)
#   PEERS  where this one goes                                   (default .venv-peers)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}
peers=${PEERS:-.venv-peers}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

shared=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
key="$shared $(cksum <requirements/peers.txt)"
[ "$(cat "$peers/.made" 2>/dev/null)" = "$key" ] && exit 0
if [ -e "$peers" ] && [ ! -e "$peers/pyvenv.cfg" ]; then
  echo "peers: $peers is there and is no virtual environment; name another with PEERS=..." >&2
  exit 1
fi
echo "peers: $peers, about 100 MB to download, 300 MB on disk"
"$venv/bin/python" -m venv --clear "$peers"
own=$("$peers/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$shared" >"$own/shared.pth"
"$peers/bin/python" -m pip install -qq --no-deps --requirement requirements/peers.txt
echo "$key" >"$peers/.made"
