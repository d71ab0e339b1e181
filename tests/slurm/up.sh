#!/usr/bin/env bash
# Start a real Slurm of one node on Debian: as root, without systemd, cgroups or an accounting database.
# It writes /etc/slurm and listens on Slurm's own ports, so it refuses where another Slurm is configured.
# Running it again starts afresh. down.sh takes back everything but the packages.
# SLURM_STATE: folder of state, logs and pid files.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
state=${SLURM_STATE:-/var/lib/slurm-one-node}
host=$(hostname -s)
mark='# written by tests/slurm/up.sh of Factlife'
etc=/etc/slurm

[ "$(id -u)" = 0 ] || { echo 'up.sh: must run as root' >&2; exit 1; }
for file in slurm.conf gres.conf; do
  if [ -e $etc/$file ] && ! grep -qF "$mark" $etc/$file; then
    echo "up.sh: $etc/$file belongs to another Slurm; it is left alone" >&2
    exit 1
  fi
done

packages=(slurmctld slurmd slurm-client munge)
if ! dpkg-query -W -f='${Status}\n' "${packages[@]}" 2>/dev/null | awk '/ok installed/ {n++} END {exit n != 4}'; then
  export DEBIAN_FRONTEND=noninteractive
  get_packages() { apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends "${packages[@]}" >/dev/null; }
  get_packages 2>/dev/null || { apt-get update -qq && get_packages; }
fi
SLURM_STATE=$state "$here/down.sh"

# Configuration. GPUs are stand-ins, clones of /dev/null: Slurm counts only character devices.
mkdir -p "$state"/{ctld,slurmd,log,run,dev} $etc
mknod -m 666 "$state/dev/nvidia0" c 1 3
getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >>/etc/hosts
cat >$etc/gres.conf <<C
$mark
NodeName=$host Name=gpu Type=standin File=$state/dev/nvidia0 Flags=nvidia_gpu_env
C
cat >$etc/slurm.conf <<C
$mark
ClusterName=one-node
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
# neither systemd nor cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SwitchType=switch/none
# no database: squeue knows finished jobs for an hour, and a text file for good
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$state/log/jobcomp.txt
MinJobAge=3600
# quick to schedule
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PriorityType=priority/basic
ReturnToService=2
KillWait=2
CompleteWait=0
# paths
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/slurmd
SlurmctldPidFile=$state/run/slurmctld.pid
SlurmdPidFile=$state/run/slurmd.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd.log
# the node
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 NodeHostname=$host CPUs=$(nproc) RealMemory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.95)}' /proc/meminfo) Gres=gpu:standin:1 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE DefMemPerCPU=500 State=UP
C

# munge signs Slurm's messages; its key must be private and its own.
if ! munge -n </dev/null >/dev/null 2>&1; then
  install -d -o munge -g munge -m 0755 /run/munge
  install -d -o munge -g munge -m 0700 /var/log/munge /var/lib/munge /etc/munge
  [ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none
  chown munge:munge /etc/munge/munge.key
  chmod 0400 /etc/munge/munge.key
  setpriv --reuid munge --regid munge --clear-groups /usr/sbin/munged --force
  cp /run/munge/munged.pid "$state/run/munged.pid"
fi
slurmctld
slurmd

for _ in $(seq 300); do
  node=$(sinfo -h -N -p main -o %T 2>/dev/null || true)
  case $node in
    idle) exit 0 ;;
    down* | drain* | inval*) scontrol update nodename="$host" state=resume 2>/dev/null || true ;;
  esac
  sleep 0.2
done
echo "up.sh: the node is not idle after a minute, but ${node:-unknown to Slurm}" >&2
tail -n 20 "$state"/log/*.log >&2 || true
exit 1
