#!/usr/bin/env bash
# The real-face run on one GPU: DeiT-S by the paper's recipe scaled to the data, CARB, full matching and detection.
#
#   docs/results/faces-gpu.sh SHARDS OUT            about half an hour on an H200
#   docs/results/faces-gpu.sh SHARDS OUT rehearse   minutes on a CPU: every command, at a size that says nothing
#
# SHARDS: `scemae shards build celeba FACES SHARDS --resize 136`. Runs from a checkout, installed or not. On a machine whose
# commands may last minutes only, in the background, from the root of the checkout (`python3 -m bench job --help`):
#
#   python3 -m bench job start OUT docs/results/faces-gpu.sh SHARDS OUT
#   python3 -m bench job poll OUT --wait 500        until it ends with 0; OUT/results.tar.gz has what is done so far
#
# The same start again goes on where it stood.
set -euo pipefail
shards=$1 out=$2 mode=${3:-full}
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
python3 -m bench needs
case_() { python3 -m bench job case "$out" "$1" python3 -m scemae "${@:2}"; }
pretrain=() correspond=() lda=() evaluate=()
if [ "$mode" = rehearse ]; then
    pretrain=(runtime.device=cpu decoder=light optim.global_batch_size=16 optim.epochs=0.01 optim.warmup_epochs=0
              loop.log_every=1 loop.save_every=2 loop.probe_every=2 loop.probe_pairs=2 runtime.workers=1)
    correspond=(runtime.device=cpu optim.epochs=0.01 loop.log_every=1 loop.save_every=1 loop.probe_every=0 loop.probe_pairs=2)
    lda=(runtime.device=cpu)
    evaluate=(runtime.device=cpu stride=8 matching.couples=4 detection.stride=8 detection.epochs=1 detection.limit=32)
fi

case_ mae pretrain experiment=faces_gpu_pretrain run_dir="$out/mae" data.shards="$shards/train" \
    probe_shards="$shards/val" "${pretrain[@]}"
case_ carb correspond experiment=faces_gpu_correspond run_dir="$out/carb" backbone="$out/mae" \
    data.shards="$shards/train" probe_shards="$shards/val" "${correspond[@]}"
case_ lda correspond experiment=lda_correspond run_dir="$out/lda" backbone="$out/mae" data.shards="$shards/train" \
    carb.dim=128 "${lda[@]}"
case_ eval evaluate experiment=faces_gpu_evaluate run_dir="$out/eval" backbone="$out/mae" projector="$out/carb" also="[$out/lda]" \
    matching.shards="$shards/mafl-test" detection.train="$shards/mafl-train" detection.test="$shards/mafl-test" \
    "${evaluate[@]}"
case_ report report "$out/eval" --no-pictures
