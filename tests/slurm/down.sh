#!/usr/bin/env bash
# Stop the Slurm that up.sh started, by its pid files, and remove its state and configuration. Can be run twice.
# SLURM_STATE: folder of state, logs and pid files.
set -uo pipefail
state=${SLURM_STATE:-/var/lib/slurm-one-node}
mark='# written by tests/slurm/up.sh of Factlife'

# runs PID NAME: that daemon is alive; a zombie that nobody waits for is not
runs() {
  grep -q "^Name:[[:space:]]*$2\$" "/proc/$1/status" 2>/dev/null && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status"
}

if [ -s "$state/run/slurmctld.pid" ] && grep -qsF "$mark" /etc/slurm/slurm.conf; then
  timeout 5 scancel --user root 2>/dev/null
  for _ in $(seq 10); do
    [ -z "$(timeout 5 squeue -h -t R,CG 2>/dev/null)" ] && break
    sleep 0.5
  done
fi
for daemon in slurmd slurmctld munged; do
  pid=$(cat "$state/run/$daemon.pid" 2>/dev/null) || continue
  runs "$pid" $daemon || continue
  kill "$pid"
  for _ in $(seq 100); do
    runs "$pid" $daemon || continue 2
    sleep 0.1
  done
  kill -9 "$pid"
done
for file in slurm.conf gres.conf; do
  grep -qsF "$mark" /etc/slurm/$file && rm -f /etc/slurm/$file
done
rm -rf "$state"
