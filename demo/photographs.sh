#!/usr/bin/env bash
# The whole chain on photographs of your own classes, on a CPU: bash demo/photographs.sh FOLDER
#
# FOLDER holds photographs.yaml (classes: [background, ...]), web/<class>/, train/images, train/labels.csv and, for the
# evaluation, val/images and val/masks; docs/own-classes.md describes them. photographs.yaml may hold any other setting too.
# Results go to FOLDER/work, or to WORK=... Finished steps are skipped. Delete that folder to start over.
set -eu
folder=${1:-}
if [ ! -e "$folder/photographs.yaml" ]; then
    echo "error: usage: bash demo/photographs.sh FOLDER, where FOLDER/photographs.yaml lists the classes" >&2
    exit 2
fi
folder=$(realpath "$folder")
work=$(realpath -m "${WORK:-$folder/work}")
cd "$(dirname "$0")/.."
. ./environment.sh
make_environment "$DEPENDENCIES"

settings=(--config demo/light.yaml --config "$folder/photographs.yaml" --root "$work")
val=()
[ ! -d "$folder/val/masks" ] || val=(--val-images "$folder/val/images" --val-masks "$folder/val/masks")

step() {
    echo
    echo "== $*"
    "$@"
}

step python create_dataset.py --train-images "$folder/train/images" --train-labels "$folder/train/labels.csv" \
    "${val[@]}" "${settings[@]}"
trained=$(python -c '
import sys
from core.config import make_config
config = make_config("demo/light.yaml", sys.argv[1], root=sys.argv[2])
print(config.max_epoch - 1, config.layout.snapshot("init", config.max_epoch - 1))' "$folder/photographs.yaml" "$work")
last=${trained%% *}  # epoch of both models
step python fetch_web_images.py --folder "$folder/web" "${settings[@]}"
step python create_web_masks.py "${settings[@]}"
step python train_seg_model.py --model init --resume "${settings[@]}"
step python est_voc_train_masks.py --epoch $last --crf "${settings[@]}"
# Smaller steps: the global branch's new layers diverge with the init model's.
step python train_seg_model.py --model final --resume --lr 0.01 "${settings[@]}" \
    --base-model "${trained#* }"
if [ ${#val[@]} -gt 0 ]; then
    step python eval_seg_model.py --model init --epoch $last "${settings[@]}"
    step python eval_seg_model.py --model final --epoch $last "${settings[@]}"
    step python eval_seg_model.py --model init --epoch $last --ms --crf "${settings[@]}"
    step python eval_seg_model.py --model final --epoch $last --ms "${settings[@]}"
    step python eval_seg_model.py --model final --epoch $last --ms --crf --savemask "${settings[@]}"
    step python demo/show_results.py --epoch $last "${settings[@]}"
    step python report.py "${settings[@]}"
else
    step python predict.py --ms --crf --epoch $last "${settings[@]}" "$folder/train/images"
fi
