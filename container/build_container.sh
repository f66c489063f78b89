#!/usr/bin/env bash
# Builds an image with the runtime's own `build --fakeroot`; see --help. Where fakeroot is not available (LUMI,
# LEONARDO), build_container_user.py takes the same options.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/build_container_user.py" --fakeroot "$@"
