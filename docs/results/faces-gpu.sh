#!/usr/bin/env bash
# The real-face run on one GPU: DeiT-S by the paper's recipe scaled to the data, CARB, full matching and detection.
#
#   docs/results/faces-gpu.sh SHARDS OUT            about half an hour on an H200
#   docs/results/faces-gpu.sh SHARDS OUT rehearse   minutes on a CPU: every command, at a size that says nothing
#
# SHARDS: `scemae shards build celeba FACES SHARDS --resize 136`. Runs from a checkout, installed or not.
set -euo pipefail
shards=$1 out=$2 mode=${3:-full}
scemae() { python3 -m scemae "$@"; }
pretrain=() correspond=() evaluate=()
if [ "$mode" = rehearse ]; then
    pretrain=(runtime.device=cpu decoder=light optim.global_batch_size=16 optim.epochs=0.01 optim.warmup_epochs=0
              loop.log_every=1 loop.save_every=2 loop.probe_every=2 loop.probe_pairs=2 runtime.workers=1)
    correspond=(runtime.device=cpu optim.epochs=0.01 loop.log_every=1 loop.save_every=1 loop.probe_every=0)
    evaluate=(runtime.device=cpu stride=8 matching.couples=4 detection.stride=8 detection.epochs=1 detection.limit=32)
fi

scemae pretrain experiment=faces_gpu_pretrain run_dir="$out/mae" data.shards="$shards/train" \
    probe_shards="$shards/val" "${pretrain[@]}"
scemae correspond experiment=faces_gpu_correspond run_dir="$out/carb" backbone="$out/mae" \
    data.shards="$shards/train" probe_shards="$shards/val" "${correspond[@]}"
scemae evaluate experiment=faces_gpu_evaluate run_dir="$out/eval" backbone="$out/mae" projector="$out/carb" \
    matching.shards="$shards/mafl-test" detection.train="$shards/mafl-train" detection.test="$shards/mafl-test" \
    "${evaluate[@]}"
scemae report "$out/eval" --no-pictures
