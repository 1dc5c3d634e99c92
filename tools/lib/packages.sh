# shellcheck shell=bash disable=SC2034
# Which Debian packages elbo is built and tested with, and how a script of tools/ gets them. Sourced, not run.

# To build and run the program.
build_packages=(
  g++ cmake ninja-build pkg-config
  libdnnl-dev nlohmann-json3-dev libcli11-dev libfmt-dev zlib1g-dev libssl-dev libcairo2-dev libfreetype-dev
  fonts-dejavu-core dataset-fashion-mnist
)

# To run every test besides.
test_packages=(
  libgtest-dev libthrust-dev
  python3 python3-pip python3-numpy python3-jsonschema python3-selenium
  clang clang-format-14 clang-tidy-16 libclang-rt-dev libomp-dev
  ccache xz-utils
)
# Ubuntu's Chromium is a snap, which a container cannot run, and PyTorch is not among its packages: what needs them is
# skipped there, and says so. Elsewhere nothing may be.
has_all_packages=0
if ! grep -qs '^ID=ubuntu' /etc/os-release; then
  test_packages+=(chromium chromium-driver python3-torch)
  has_all_packages=1
fi

# install_missing PACKAGE...: installs those that are not there. Without root and sudo it prints the line to run
# and fails.
install_missing() {
  local missing=() package
  if ! command -v dpkg-query > /dev/null; then
    echo "No dpkg here, so nothing is installed; needed, by their Debian names: $*"
    return 0
  fi
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  local as_root=()
  if ((EUID != 0)); then
    if command -v sudo > /dev/null && { sudo -n true 2> /dev/null || { [[ -t 0 ]] && sudo -v; }; }; then
      as_root=(sudo)
    else
      echo "These packages are missing, and only root can install them. Run this, then this script again:" >&2
      echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
      return 1
    fi
  fi
  echo "Installing ${missing[*]}"
  # A list that cannot be fetched need not be one that is wanted: the installation decides.
  quietly packages "${as_root[@]}" apt-get update || true
  quietly packages "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}"
}

# fetch_nvdisasm FOLDER: the Python package that has it, where there is an nvcc and nothing to read its code with.
fetch_nvdisasm() {
  local version=13.5.37 nvcc
  nvcc=$(command -v nvcc /usr/local/cuda/bin/nvcc | head -n 1) || return 0
  if [[ -x $(dirname "$(readlink -f "$nvcc")")/nvdisasm || -x $1/nvidia/cu13/bin/nvdisasm ]]; then return 0; fi
  command -v nvdisasm > /dev/null && return 0
  echo "Fetching nvdisasm $version"
  quietly nvdisasm /usr/bin/python3 -m pip install --no-deps --upgrade --target "$1" "nvidia-cuda-nvdisasm==$version"
}

# quietly NAME COMMAND...: runs it with its output in a log; shows the log's end if it fails.
quietly() {
  local log
  log=$(mktemp "${TMPDIR:-/tmp}/elbo-$1.XXXXXX.log")
  shift
  if "$@" > "$log" 2>&1 < /dev/null; then
    rm -f "$log"
  else
    local code=$?
    tail -n 60 "$log" >&2
    echo "Failed ($code): $*" >&2
    echo "The whole log: $log" >&2
    return "$code"
  fi
}
