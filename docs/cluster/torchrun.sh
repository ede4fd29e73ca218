#!/usr/bin/env bash
# One job on NODES machines, plain torchrun. Start it on every machine with the same MASTER_ADDR:
#   NODES=2 NODE=0 MASTER_ADDR=10.0.0.1 docs/cluster/torchrun.sh train -opt FILE
#   NODES=2 NODE=1 MASTER_ADDR=10.0.0.1 docs/cluster/torchrun.sh train -opt FILE
set -euo pipefail

: "${NODES:=1}" "${NODE:=0}" "${MASTER_ADDR:=127.0.0.1}" "${MASTER_PORT:=29500}"
# Processes on this machine: one for each GPU. On the CPU: one for each socket, with OMP_NUM_THREADS its cores.
: "${PROCESSES:=1}"

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="$NODES" --node_rank="$NODE" --nproc_per_node="$PROCESSES" \
    --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" \
    -m atelier "$@" --launcher pytorch
