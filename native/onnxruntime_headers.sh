#!/usr/bin/env bash
# onnxruntime_headers.sh FOLDER: the headers of ONNX Runtime's C API, from Debian's package libonnxruntime-dev.
#
# Debian 12 has no such package; there it is Debian 13's, downloaded through a list of its own from where apt gets
# the rest. Nothing is installed: the headers alone are unpacked.
set -euo pipefail
folder=${1:?usage: onnxruntime_headers.sh FOLDER}
[ -e "$folder/onnxruntime_c_api.h" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
options=(-o Acquire::Retries=3)
if [ -z "$(apt-cache madison libonnxruntime-dev 2>/dev/null)" ]; then
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' | awk '$2 == "main" && /debian\/? / {print $1; exit}')
    [ -n "$mirror" ] || { echo "apt knows no Debian archive to get libonnxruntime-dev from" >&2; exit 1; }
    mkdir -p "$work"/{lists,cache}/partial "$work/cache/archives/partial"
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$key] $mirror trixie main" > "$work/trixie.list"
    options+=(-o "Dir::Etc::sourcelist=$work/trixie.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
             -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" -qq update
fi
(cd "$work" && apt-get "${options[@]}" -qq download libonnxruntime-dev && dpkg -x ./*.deb unpacked)
mkdir -p "$folder"
cp "$work"/unpacked/usr/include/onnxruntime/onnxruntime_c_api.h "$folder/"
echo "the headers of ONNX Runtime are in $folder"
