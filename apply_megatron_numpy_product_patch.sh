#!/usr/bin/env bash
# NumPy 2.0 removed numpy.product, numpy.cumproduct, numpy.sometrue and numpy.alltrue, which Megatron-LM calls up to
# core_v0.15. This writes prod, cumprod, any and all in their place, in a checkout or an installed Megatron.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash apply_megatron_numpy_product_patch.sh [--check] [MEGATRON]

Replaces numpy.product and its kin, which NumPy 2.0 removed, in the Python files of Megatron-LM, and says which lines
it changed. What is changed already stays as it is, so that it can be run again at any time.

  MEGATRON   the folder of Megatron-LM; else submodules/Megatron-LM beside this script, if it is filled; else the
             `megatron` package that python3 imports (inside of a container)
  --check    change nothing; exit code 1 if something were to be changed
TEXT
}

fail() {
  printf 'apply_megatron_numpy_product_patch.sh: %s\n' "$1" >&2
  exit 2
}

check=false folder=
for word; do
  case $word in
    -h | --help) usage; exit 0 ;;
    --check) check=true ;;
    -*) fail "unknown option $word; see --help" ;;
    *) [[ -z $folder ]] || fail 'one folder at a time; see --help'; folder=$word ;;
  esac
done

if [[ -z $folder ]]; then
  submodule=$(cd "$(dirname "$0")" && pwd)/submodules/Megatron-LM
  if [[ -d $submodule/megatron ]]; then
    folder=$submodule
  else
    # From / on: a folder named megatron in the working directory is not meant.
    folder=$(cd / && python3 -c 'import importlib.util as u; print([*u.find_spec("megatron").submodule_search_locations][0])' \
      2>/dev/null) || fail 'no Megatron-LM: fill the submodule (git submodule update --init), or name its folder'
  fi
fi
[[ -d $folder ]] || fail "no folder $folder"

# by their module's name, or imported by their own: `from numpy import product` becomes `… prod as product`
names='product|cumproduct|sometrue|alltrue'
first='(^[[:space:]]*from numpy import (.*, *)?\(? *)'
pattern="\\b(np|numpy)\\.($names)\\b|$first($names)\\b"
found=$(mktemp)
trap 'rm -f -- "$found"' EXIT
grep -rlZE --include='*.py' -- "$pattern" "$folder" > "$found" || (($? == 1)) || fail "can't read all of $folder"

files=0
while IFS= read -r -d '' file; do
  files=$((files + 1))
  grep -nHE -- "$pattern" "$file"
  $check && continue
  [[ -w $file ]] || fail "may not write $file"
  sed -i -E -e 's/\b(np|numpy)\.product\b/\1.prod/g' -e 's/\b(np|numpy)\.cumproduct\b/\1.cumprod/g' \
    -e 's/\b(np|numpy)\.sometrue\b/\1.any/g' -e 's/\b(np|numpy)\.alltrue\b/\1.all/g' -- "$file"
  for pair in product:prod cumproduct:cumprod sometrue:any alltrue:all; do
    sed -i -E -e "s/$first${pair%:*} as /\\1${pair#*:} as /" -e "s/$first${pair%:*}\\b/\\1${pair#*:} as ${pair%:*}/" -- "$file"
  done
done < "$found"

if ((files == 0)); then
  printf 'Nothing to do: no numpy.product in %s\n' "$folder"
elif $check; then
  printf 'To be changed: %s in %s\n' "$files file(s)" "$folder"
  exit 1
else
  printf 'Changed: %s in %s\n' "$files file(s)" "$folder"
fi
