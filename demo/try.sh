#!/usr/bin/env bash
# Segment photographs with the network that comes with the code: bash demo/try.sh PICTURE...
#
# Installs the packages in .venv first. Without a picture it takes those of demo/pictures. The network knows the twenty classes of
# VOC; models/README.md says how it was trained.
set -eu
pictures=()
for picture in "$@"; do
    pictures+=("$(realpath -m -- "$picture")")
done
cd "$(dirname "$0")/.."
. ./environment.sh
make_environment "$DEPENDENCIES"

output=outputs/try
[ $# -gt 0 ] || pictures=(demo/pictures/*.jpg)
python predict.py --ms --crf --snapshot models/voc20_light.params --output $output -- "${pictures[@]}"
python -c '
import glob, os, sys
overlays = glob.glob(os.path.join(sys.argv[1], "overlays", "**", "*.*"), recursive=True)
print("\nlook at", os.path.abspath(max(overlays, key=os.path.getmtime)))' $output
