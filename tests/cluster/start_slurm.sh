#!/usr/bin/env bash
# One-node SLURM with one pretended GPU, without systemd and without accounting. As root, once:
#   tests/cluster/start_slurm.sh FOLDER        stop: kill the two processes of FOLDER/*.pid
# Writes /etc/slurm: the executor's inner step does not see SLURM_CONF. Overwrites nothing there; who
# stops it removes slurm.conf and gres.conf, since each start of Snakemake asks that controller.
set -euo pipefail
base=$(realpath -m "${1:?a folder for state and logs}")
if [ -e /etc/slurm/slurm.conf ] && ! grep -q '^ClusterName=flagst$' /etc/slurm/slurm.conf; then
    echo "/etc/slurm/slurm.conf belongs to another cluster; it is left alone" >&2
    exit 2
fi
host=$(hostname -s)
memory=$(awk '/MemTotal/ {printf "%d", $2 / 1024 * 0.9}' /proc/meminfo)
mkdir -p "$base"/{state,spool,log} /etc/slurm
cat > /etc/slurm/slurm.conf <<EOF
ClusterName=flagst
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$base/state
SlurmdSpoolDir=$base/spool
SlurmctldPidFile=$base/slurmctld.pid
SlurmdPidFile=$base/slurmd.pid
SlurmctldLogFile=$base/log/slurmctld.log
SlurmdLogFile=$base/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
EnforcePartLimits=ALL
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
KillWait=2
MinJobAge=600
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=$memory Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes=$host Default=YES MaxTime=1440 State=UP
PartitionName=gpu Nodes=$host MaxTime=1440 State=UP
EOF
cat > /etc/slurm/gres.conf <<EOF
AutoDetect=off
NodeName=$host Name=gpu File=/dev/null
EOF
if ! munge -n > /dev/null 2>&1; then
    install -d -o munge -g munge -m 0755 /run/munge
    runuser -u munge -- /usr/sbin/munged
fi
slurmctld
slurmd
for _ in $(seq 60); do
    [ "$(sinfo -h -o %t -p cpu)" = idle ] && exit 0
    sleep 0.5
done
echo "the node did not become idle; see $base/log" >&2
exit 1
