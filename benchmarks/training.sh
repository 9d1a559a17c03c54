#!/bin/sh
# All training benchmarks, one after the other, on a machine that does nothing else:
#
#     STENTOR_DATA=DIR sh benchmarks/training.sh OUT [LIBRARY]
#
# Tables and raw numbers go to the folder OUT. Takes about an hour and three quarters on two slow
# cores (profile 3 minutes, fine-tuning against TRL 55, pretraining against the Trainer 12, losses
# 30). With LIBRARY (see docs/how-to/fast.md, for AMD) it is preloaded in every arm of every
# comparison. PYTHON says which Python (default: .venv/bin/python).
set -eu
here=$(dirname "$0")
out=$1
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
if [ $# -gt 1 ]; then
    LD_PRELOAD=$(realpath "$2")
    export LD_PRELOAD
fi
"$python" "$here/finetune_profile.py" > "$out/profile.md"
"$python" "$here/finetune_speed.py" --rounds 3 \
    --out "$out/finetune.json" > "$out/finetune.md"
"$python" "$here/pretrain_speed.py" --rounds 3 --matrix --out "$out/pretrain.json" > "$out/pretrain.md"
"$python" "$here/finetune_loss.py" > "$out/loss.md"
cat "$out"/*.md
