#!/usr/bin/env bash
# The whole chain on a small data set that is drawn here: bash demo/run.sh
#
# The scripts are those of a full-size run; demo/sample.yaml makes the network and the training small. Finished steps are
# skipped. Delete demo/work to start over.
set -eu
cd "$(dirname "$0")/.."
. ./environment.sh
make_environment "$DEPENDENCIES"

settings="--config demo/sample.yaml"
work=demo/work
last=6  # epochs of both models

step() {
    echo
    echo "== $*"
    "$@"
}

if [ ! -e $work/drawn ]; then
    step python demo/make_sample.py $settings
    touch $work/drawn
fi
step python create_web_masks.py $settings
step python eval_web_masks.py --truth $work/dataset/web_truth $settings
step python create_dataset.py $settings
step python train_seg_model.py --model init --resume $settings
step python eval_loop.py --model init --once $settings
step python est_voc_train_masks.py --epoch best --crf $settings
# The init model stands in for ImageNet weights. Crops are large, as the image-level labels speak of whole images.
step python train_seg_model.py --model final --resume --crop-size 144 --lr 0.02 $settings \
    --base-model $work/snapshots/init_fcn_resnet50-$last.params
step python eval_loop.py --model final --once $settings
step python eval_seg_model.py --model final --epoch best --ms $settings
step python eval_seg_model.py --model final --epoch best --ms --crf --savemask $settings
step python demo/show_results.py $settings
step python report.py $settings
