#!/bin/sh
# install.sh WHEELS: vLLM for the CPU in /opt/kvarn, from the locks beside this file and WHEELS/torch-*.whl.
set -eu
here=$(dirname "$0")
(cd "$1" && sha256sum --check --quiet "$here"/torch-*.whl.sha256)

# uv installs 130 wheels in seconds where pip takes minutes; it does not stay.
python3 -m venv /tmp/uv
/tmp/uv/bin/pip install --quiet --no-cache-dir --no-deps --require-hashes -r "$here/bootstrap.txt"
uv() { UV_SYSTEM_CERTS=1 /tmp/uv/bin/uv --quiet --no-cache pip "$@"; }

python3 -m venv /opt/kvarn
uv install --python /opt/kvarn --no-deps --require-hashes -r "$here/serving-cpu.txt"
uv install --python /opt/kvarn --no-deps "$1"/torch-*.whl
uv uninstall --python /opt/kvarn -r "$here/unneeded.txt"
/opt/kvarn/bin/python "$here/slim.py"
rm -r /tmp/uv
