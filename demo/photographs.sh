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

# step WEIGHT COMMAND: the weights are about the minutes that the steps take for twenty classes, on two quiet cores.
left=72
[ ${#val[@]} -gt 0 ] || left=60
spent=0
begin=$SECONDS
step() {
    weight=$1
    shift
    echo
    echo "== $*"
    if [ $spent -gt 0 ]; then
        echo "== $(((SECONDS - begin) / 60)) minutes so far, about $(((SECONDS - begin) * left / spent / 60)) to go"
    fi
    before=$SECONDS
    "$@"
    left=$((left - weight))
    if [ $((SECONDS - before)) -gt 20 ]; then  # a finished step, which is skipped, tells nothing about the speed
        spent=$((spent + weight))
    else
        begin=$((begin + SECONDS - before))
    fi
}

step 1 python create_dataset.py --train-images "$folder/train/images" --train-labels "$folder/train/labels.csv" \
    "${val[@]}" "${settings[@]}"
trained=$(python -c '
import sys
from core.config import make_config
config = make_config("demo/light.yaml", sys.argv[1], root=sys.argv[2])
print(config.max_epoch - 1, config.layout.snapshot("init", config.max_epoch - 1))' "$folder/photographs.yaml" "$work")
last=${trained%% *}  # epoch of both models
step 2 python fetch_web_images.py --folder "$folder/web" "${settings[@]}"
step 24 python create_web_masks.py "${settings[@]}"
step 5 python train_seg_model.py --model init --resume "${settings[@]}"
# Training images are labelled as well at the published scales, in less time.
step 13 python est_voc_train_masks.py --epoch $last --crf --scales 0.7,1,1.3 "${settings[@]}"
# Smaller steps: the global branch's new layers diverge with the init model's.
step 13 python train_seg_model.py --model final --resume --lr 0.01 "${settings[@]}" \
    --base-model "${trained#* }"
if [ ${#val[@]} -gt 0 ]; then
    step 1 python eval_seg_model.py --model init --epoch $last "${settings[@]}"
    step 1 python eval_seg_model.py --model final --epoch $last "${settings[@]}"
    step 4 python eval_seg_model.py --model init --epoch $last --ms --crf "${settings[@]}"
    step 2 python eval_seg_model.py --model final --epoch $last --ms "${settings[@]}"
    step 4 python eval_seg_model.py --model final --epoch $last --ms --crf --savemask "${settings[@]}"
    step 1 python demo/show_results.py --epoch $last "${settings[@]}"
    step 1 python report.py "${settings[@]}"
else
    step 2 python predict.py --ms --crf --epoch $last "${settings[@]}" "$folder/train/images"
fi
