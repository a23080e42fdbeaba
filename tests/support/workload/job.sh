#!/bin/sh
# A command job that writes itself down: sh job.sh LEDGER JOB [WORK...]. See ledger.py.
ledger=$1 job=$2
shift 2
say() { echo "$1 $job $$" >>"$ledger/lines"; }

exec 9>"$ledger/locks/$job"
flock -n 9 || say overlap
say start
for work in "$@"; do
    case $work in
    gate) flock -s "$ledger/gate" true ;;
    exit=*) exit "${work#exit=}" ;;
    echo=*) echo "${work#echo=}" ;;
    sleep=*) sleep "${work#sleep=}" ;;
    segv) kill -s SEGV $$ ;;
    print=*) head -c "${work#print=}" /dev/zero | tr '\0' x ;;
    grandchild) # it leaves its family, as far as a process can that keeps its environment
        setsid sh -c 'echo "grandchild $1 $$" >>"$2/lines"; exec sleep 3600' sh "$job" "$ledger" >/dev/null 2>&1 &
        until grep -q "^grandchild $job " "$ledger/lines"; do sleep 0.01; done
        ;;
    esac
done
say end
