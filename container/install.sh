#!/bin/bash
# Runs inside an image while it is built, from its %post: installs the wheels that were fetched before, without network
# and without touching a package of the base, and lets the image's python3 find oellm_autoexp.
set -euo pipefail

place=$(cd "$(dirname "$0")/.." && pwd)
build=$place/build
mkdir -p "$build/tmp"
export TMPDIR=$build/tmp PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_CONFIG_FILE=/dev/null PYTHONNOUSERSITE=1
unset PIP_CONSTRAINT  # that of an NGC image; the versions are settled

if [[ -s $build/locked.txt ]]; then
  python3 -m pip install --no-index --no-deps --no-cache-dir --find-links "$build/wheels" -r "$build/locked.txt"
fi

site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$site"
printf '%s\n' "$place" > "$site/oellm-autoexp.pth"
chmod -R a+rX "$place"
python3 -m compileall -q "$place/oellm_autoexp" || true

if [[ -d $place/submodules/Megatron-LM/megatron ]]; then
  bash "$place/apply_megatron_numpy_product_patch.sh" "$place/submodules/Megatron-LM"
fi
rm -rf -- "$build"
