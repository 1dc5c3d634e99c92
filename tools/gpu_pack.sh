#!/usr/bin/env bash
# Makes the one folder to bring to a machine with a GPU, and says what to run there: the package, with code for every
# GPU, MNIST and Frey Face, and check.sh, which unpacks the first and checks with it.
#
#   tools/gpu_pack.sh [--without-data] [FOLDER]     FOLDER: made anew (default: elbo-gpu)
#
# What to run is on standard output, a line a call; $RESULTS is the folder to take home. docs/first-gpu.md says the rest.
set -euo pipefail
started_in=$PWD
cd "$(dirname "$0")/.."
source tools/lib/packages.sh

most_bytes=$((48 << 20))  # of the folder: what can be brought along is often little
datasets=(mnist freyface)
if [[ ${1:-} == --without-data ]]; then datasets=() && shift; fi
name=${1:-elbo-gpu}
if [[ $name == -* || $# -gt 1 ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
folder=$name
[[ $folder == /* ]] || folder=$started_in/$folder
# Only a folder that this has made is made anew.
if [[ -e $folder && ! -e $folder/check.sh ]]; then
  echo "$name is there already, and not a folder that this has made: name another" >&2
  exit 1
fi

given_data=${ELBO_DATA:-}
[[ -z $given_data || $given_data == /* ]] || given_data=$started_in/$given_data

find_data() {
  local from
  for from in ${given_data:+"$given_data"} data /usr/share/datasets; do
    if [[ -d $from/$1 ]]; then
      echo "$from/$1"
      return
    fi
  done
  echo "There is no $1 in \$ELBO_DATA, ./data or /usr/share/datasets: elbo data list says where to get it;" >&2
  echo "--without-data does without, and then mnist-2d and freyface-8d are not trained there" >&2
  return 1
}
for dataset in ${datasets[@]+"${datasets[@]}"}; do find_data "$dataset" > /dev/null; done

quietly configure cmake --preset package
quietly build cmake --build --preset package -j "$(nproc)" --target package_contents
rm -f build-package/elbo-*.tar.xz
quietly cpack cpack --config build-package/CPackConfig.cmake -B build-package

rm -rf "$folder"
mkdir -p "$folder"
cp build-package/elbo-*.tar.xz "$folder"
for dataset in ${datasets[@]+"${datasets[@]}"}; do cp -rL --no-preserve=mode "$(find_data "$dataset")" "$folder"; done
cat > "$folder/check.sh" << 'END'
#!/bin/sh
# check.sh first|second OUT [ARGUMENT...]: unpacks elbo beside this file, once, and runs its tools/gpu_check.sh with the
# data sets that lie here. What that takes is of the call's time. Where nothing may be written beside it, elbo goes into
# a folder of this user's below ${TMPDIR:-/tmp}.
set -eu
began=$(date +%s)
here=$(cd "$(dirname "$0")" && pwd)
call=$1 out=$2
shift 2
archive=$(echo "$here"/elbo-*.tar.xz)
where=$here
if [ ! -d "$here/elbo" ] && ! [ -w "$here" ]; then
  where=${TMPDIR:-/tmp}/elbo-gpu-$(id -u)-$(cksum < "$archive" | cut -d ' ' -f 1)
  mkdir -p -m 700 "$where"
  [ -O "$where" ] || { echo "$where is somebody else's: name another folder in TMPDIR" >&2 && exit 1; }
fi
if [ ! -d "$where/elbo" ]; then
  rm -rf "$where/unpacked"
  mkdir "$where/unpacked"
  # Where there is no xz, Python may know the format.
  tar -xJf "$archive" -C "$where/unpacked" || python3 -m tarfile -e "$archive" "$where/unpacked"
  mv "$where/unpacked"/elbo-* "$where/elbo"
  rmdir "$where/unpacked"
fi
exec "$where/elbo/share/elbo/tools/gpu_check.sh" "$call" --began "$began" --data "$here" --out "$out" "$@"
END
chmod +x "$folder/check.sh"

bytes=$(du -sb "$folder" | cut -f 1)
if ((bytes > most_bytes)); then
  echo "$name takes $bytes bytes, more than $most_bytes" >&2
  exit 1
fi
printf '%s: %d MB. Bring it along, and run there:\n\n' "$name" $((bytes / 1000000)) >&2
for call in first second; do printf 'sh %q/check.sh %s "$RESULTS"\n' "$name" "$call"; done
