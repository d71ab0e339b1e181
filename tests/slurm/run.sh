#!/usr/bin/env bash
# Run the smoke scenario on a real Slurm of one node. Installs Debian's packages of it and stops it afterwards.
set -euo pipefail
cd "$(dirname "$0")/../.."

cannot() {
  echo "No Slurm test: $1." >&2
  [ -z "${CI:-}" ] || exit 1
  exit 0
}
command -v apt-get >/dev/null || cannot 'it needs Debian or Ubuntu, whose packages it installs'
[ "$(id -u)" = 0 ] || cannot 'it must run as root, since it installs packages and writes /etc/slurm'

trap 'tests/slurm/down.sh' EXIT
tests/slurm/up.sh
FACTLIFE_SLURM=1 .venv/bin/python -m pytest tests/slurm "$@"
