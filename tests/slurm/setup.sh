#!/bin/bash
# A Slurm of one node on this machine, for tests/slurm: Debian's slurm-wlm and munge, started on the loopback.
# As root, in a container or a virtual machine that nobody else uses: it writes /etc/slurm/slurm.conf.
#
#     bash tests/slurm/setup.sh           # installs what is missing, starts it, waits until the node is idle
#     bash tests/slurm/setup.sh stop
set -eu

daemons=(slurmd slurmctld munged)
if [ "${1:-start}" = stop ]; then
    for daemon in "${daemons[@]}"; do
        file=/run/qcifar-slurm/$daemon.pid
        [ -f "$file" ] && kill "$(cat "$file")" 2> /dev/null || true
    done
    exit 0
fi

if ! command -v slurmctld slurmd munged > /dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge > /dev/null
fi
mkdir -p /etc/slurm /run/qcifar-slurm /var/spool/qcifar-slurm/state /var/spool/qcifar-slurm/d /var/log/slurm /run/munge
chown munge: /run/munge
chmod 755 /run/munge
[ -f /etc/munge/munge.key ] || /usr/sbin/mungekey --create
chown munge: /etc/munge/munge.key
chmod 400 /etc/munge/munge.key

host=$(hostname -s)
megabytes=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 * 9 / 10))
# cred_expire: a requeued job may start after so many seconds (120 by default).
cat > /etc/slurm/slurm.conf << END
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=500000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=30
SlurmctldPidFile=/run/qcifar-slurm/slurmctld.pid
SlurmdPidFile=/run/qcifar-slurm/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
StateSaveLocation=/var/spool/qcifar-slurm/state
SlurmdSpoolDir=/var/spool/qcifar-slurm/d
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$megabytes State=UNKNOWN
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10
END

munge -n > /dev/null 2>&1 || {
    setpriv --reuid munge --regid munge --clear-groups /usr/sbin/munged --pid-file /run/munge/munged.pid
    cp /run/munge/munged.pid /run/qcifar-slurm/munged.pid
}
scontrol ping > /dev/null 2>&1 || slurmctld
sleep 1
sinfo -h -N -o %T 2> /dev/null | grep -qE '^(idle|mixed|allocated)$' || slurmd
for _ in $(seq 30); do
    sinfo -h -N -o %T 2> /dev/null | grep -qE '^(idle|mixed|allocated)$' && exec sinfo -N -l
    sleep 1
done
echo "Slurm did not come up; see /var/log/slurm" >&2
exit 1
