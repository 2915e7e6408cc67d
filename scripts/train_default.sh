#!/bin/sh
# Trains the model that ships, from COCO's MobileNetV2 to the float16 file: docs/default_model.md.
#
#     sh scripts/train_default.sh STREET FLAT [TARGET]
#
# STREET: street photos, FLAT: photos of single garments, both in DeepFashion2's layout. TARGET:
# the file to write, default_model.h5 if not given. Run folders lie in logs/. A run that was cut off
# is gone on with by the command that was running, with `--weights last` instead of its weights.
# PYTHON names another interpreter, OPTIONS more options of `model.py train`, such as a dry run.
set -eu
street=${1:?give the folder of street photos} flat=${2:?give the folder of single garments}
target=${3:-default_model.h5}
python=${PYTHON:-python}
coco=logs/coco

for name in street flat; do
    eval "folder=\$$name"
    "$python" convert_to_coco.py --data "$folder" --output_dir "$coco/$name"
done

newest() {
    ls -td logs/"$1"2* | head -n 1
}

# 1: street photos alone, all layers.
# shellcheck disable=SC2086
"$python" model.py train --data "$street" --annotations "$coco/street" --model compact \
    --name default_street --batch_size 8 --lr 0.02 --lr_schedule cosine --warmup 200 \
    --augment zoom --epochs 31 ${OPTIONS:-}

# 2: both, rare classes more often, garments pasted between photos; the first stages stay.
# shellcheck disable=SC2086
"$python" model.py train --data "$street" "$flat" --annotations "$coco/street" "$coco/flat" \
    --model compact --name default_both --weights "$(newest default_street)" --layers 4+ \
    --batch_size 8 --lr 0.01 --lr_schedule cosine --warmup 30 --ema 0.99 --augment default \
    --paste 0.3 --balance repeat_factor --repeat 2 1 --steps_per_epoch 40 --epochs 10 ${OPTIONS:-}

last() {
    ls "$(newest "$1")"/mask_rcnn_"$1"_[0-9][0-9][0-9][0-9].h5 | tail -n 1
}

# 3: on from there with larger changes of the pictures, and more pasting.
# shellcheck disable=SC2086
"$python" model.py train --data "$street" "$flat" --annotations "$coco/street" "$coco/flat" \
    --model compact --name default_strong --weights "$(last default_both)" --layers 4+ \
    --batch_size 8 --lr 0.01 --lr_schedule cosine --warmup 30 --ema 0.99 --augment strong \
    --paste 0.5 --balance repeat_factor --repeat 2 1 --rois 48 --steps_per_epoch 40 --epochs 14 \
    ${OPTIONS:-}

# 4: the mean of both, halved.
mean=$(newest default_strong)/mean.h5
"$python" scripts/average_weights.py "$(last default_both)" "$(last default_strong)" "$mean"
"$python" scripts/to_float16.py "$mean" "$target" --set DETECTION_MIN_CONFIDENCE=0.7
