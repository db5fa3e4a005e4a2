#!/usr/bin/env bash
# SCE-MAE, CL, LEAD and DVE under one budget (images seen, resolution) on one GPU, then every table and figure.
#
#   docs/results/rivals-gpu.sh SHARDS OUT [PART...]      parts: mae moco byol dve stage2 tables (all, in this order)
#   MODE=rehearse docs/results/rivals-gpu.sh SHARDS OUT  minutes on a CPU: every command, at a size that says nothing
#
# SHARDS: `scemae shards build celeba FACES SHARDS --resize 136`; AFLW and 300W beside it, named in MORE (a comma-separated list
# of folders of splits). EPOCHS (200) is every method's budget. Each part goes on where it stood, so one that is cut off
# costs nothing but time; one that fails, or for which lightly is not there (moco, byol), stops none that can do without it.
# Runs from a checkout, installed or not. On a machine whose commands may last minutes only, in the background, from the
# root of the checkout (`python3 -m bench job --help`):
#
#   python3 -m bench job start OUT docs/results/rivals-gpu.sh SHARDS OUT
#   python3 -m bench job poll OUT --wait 500             until it ends with 0; OUT/results.tar.gz has what is done so far
set -uo pipefail
shards=$1 out=$2; shift 2
parts=${*:-mae moco byol dve stage2 tables} epochs=${EPOCHS:-200} more=${MORE:+,$MORE}
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
python3 -m bench needs || exit 1
bad=0 needs=()
case_() { python3 -m bench job case "${needs[@]}" "$out" "$1" python3 -m scemae "${@:2}" || bad=1; }
train=("data.shards=$shards/train" "probe_shards=$shards/val")
first=("optim.epochs=$epochs") mae=() moco=() byol=() dve=() second=() tables=()
if [ "${MODE:-full}" = rehearse ]; then
    first=(runtime.device=cpu optim.global_batch_size=16 optim.epochs=0.01 optim.warmup_epochs=0 loop.log_every=1
           loop.save_every=2 loop.probe_every=2 loop.probe_pairs=2)
    mae=(decoder=light) moco=(method.settings.trunk=resnet18) byol=(method.settings.trunk=resnet18 method.settings.hidden=64)
    dve=(method.settings.width=16 method.settings.depth=2 method.settings.blocks=1)
    second=(runtime.device=cpu optim.epochs=0.01 loop.log_every=1 loop.save_every=1 loop.probe_every=0 loop.probe_pairs=2)
    tables=(runtime.device=cpu stride=8 detection.stride=8 matching.couples=4 detection.epochs=1 detection.limit=32 'few_shot.counts=[1,5]'
            'few_shot.seeds=[0]' few_shot.images_per_epoch=8 few_shot.epochs=1 few_shot.views=1 embedding.images=8
            embedding.repeats=2 embedding.perplexity=5)
fi
for part in $parts; do
    case $part in
    mae) needs=()
        case_ mae pretrain experiment=faces_gpu_rivals_pretrain run_dir="$out/mae" "${train[@]}" "${first[@]}" "${mae[@]}" ;;
    moco | byol | dve)
        declare -n small=$part
        needs=(); [ "$part" = dve ] || needs=(--needs lightly)
        case_ "$part" pretrain "experiment=faces_gpu_${part}_pretrain" run_dir="$out/$part" "${train[@]}" "${first[@]}" \
            "${small[@]}" ;;
    stage2)
        for dim in 64 128 256; do
            t=$([ $dim = 64 ] && echo 8.0 || echo 7.0) tau=$([ $dim = 64 ] && echo 0.125 || echo 0.14285714285714285)
            needs=(--after mae)
            case_ carb$dim correspond experiment=faces_gpu_correspond run_dir="$out/carb$dim" backbone="$out/mae" \
                "${train[@]}" carb.dim=$dim carb.tau=$tau "${second[@]}"
            case_ lda$dim correspond experiment=lda_correspond run_dir="$out/lda$dim" backbone="$out/mae" \
                "${train[@]}" carb.dim=$dim "${second[@]}" optim.epochs=0
            needs=(--after moco)
            case_ cl$dim correspond experiment=faces_gpu_cl_correspond run_dir="$out/cl$dim" backbone="$out/moco" \
                "${train[@]}" method.settings.dim=$dim method.settings.temperature=$t "${second[@]}"
            needs=(--after byol)
            [ $dim = 128 ] || case_ lead$dim correspond experiment=faces_gpu_lead_correspond run_dir="$out/lead$dim" \
                backbone="$out/byol" "${train[@]}" method.settings.dim=$dim "${second[@]}"
        done ;;
    tables)
        runs=()
        for run in carb64 carb128 carb256 lda64 lda128 lda256 cl64 cl128 cl256 lead64 lead256 dve; do
            ! grep -qs '"status": 0' "$out/cases/$run.json" || runs+=("$out/$run")
        done
        needs=()
        case_ tables tables "${runs[@]}" run_dir="$out/tables" experiment=faces_gpu_tables "shards=[$shards$more]" \
            pictures=false "${tables[@]}" ;;
    esac
done
exit $bad
