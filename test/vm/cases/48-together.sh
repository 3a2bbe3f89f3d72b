# one machine only: needs the memory, pids, cpu and io controllers
# All scans together have limits of their own: none of these runs into that of one scan.
hog_up $'limits: {memory_mib: 96, processes: 8, cpu_percent: 100, io_mib: 4}\nscans: {memory_mib: 96, processes: 8, cpu_percent: 40, io_mib: 1}'
pid=$(launcher)
all=$(cgroup)/boxes
event() { awk -v name="$2" '$1 == name {print $2}' "$1/memory.events"; }
equal "the limits of all" "$(cat "$all/memory.max" "$all/pids.max" "$all/cpu.max")" $'100663296\n8\n40000 100000'

# Two that want 60 MiB each, of 96: one ends, by memory; the other runs on.
first=$(hog some-memory)
eventually 20 runs "$first"
full() { [ "$(cat "$(box "$1")/memory.current")" -gt $((56 << 20)) ]; }
eventually 30 full "$first"
second=$(hog some-memory)
one_ended() { [ "$(boxes | wc -l)" = 1 ] && [ "$(event "$all" oom_kill)" -ge 1 ]; }
eventually 60 one_ended
if [ -d "$(box "$first")" ]; then lived=$first died=$second; else lived=$second died=$first; fi
equal "reason" "$(value end.reason "$(ended "$died")")" memory
runs "$lived" || fail "the other does not run"
eventually 30 full "$lived" # and has what it wanted
equal "times the other met its own limit" "$(event "$(box "$lived")" max)" 0
call alice job_cancel "{\"job_id\": \"$lived\"}" >/dev/null
eventually 20 no_box

# Two that compute for ever, each allowed a whole processor.
one=$(hog cpu) two=$(hog cpu)
eventually 20 runs "$one"
eventually 20 runs "$two"
used() { awk '$1 == "usage_usec" {print int($2 / 1000)}' "$1/cpu.stat"; }
before=$(used "$all") before_one=$(used "$(box "$one")") before_two=$(used "$(box "$two")")
begun_ms=$(now)
sleep 5
share=$((100 * ($(used "$all") - before) / ($(now) - begun_ms)))
echo "$share percent, $(($(used "$(box "$one")") - before_one)) and $(($(used "$(box "$two")") - before_two)) ms"
[ "$share" -ge 20 ] || fail "they did not even take their share: $share percent"
[ "$share" -le 50 ] || fail "they took $share percent of a processor, of 40"

# So has the slice, which an operator changes while they run: what it says holds for the launcher, too.
slice=$(dirname "$(cgroup)")
equal "the slice" "${slice##*/}" secmcpd-scans.slice
total=$(awk '$1 == "MemTotal:" {print $2 * 1024}' /proc/meminfo)
equal "its memory, in percent" "$(((1000 * $(cat "$slice/memory.max") / total + 5) / 10))" 75
equal "its other limits" "$(cat "$slice/pids.max" "$slice/cpu.weight" "$slice/../cpu.weight")" $'4096\n50\n50'
systemctl set-property --runtime secmcpd-scans.slice CPUQuota=20%
before=$(used "$slice") begun_ms=$(now)
sleep 5
share=$((100 * ($(used "$slice") - before) / ($(now) - begun_ms)))
systemctl set-property --runtime secmcpd-scans.slice CPUQuota=
echo "$share percent in the slice"
[ "$share" -ge 10 ] || fail "the slice did not even take its share: $share percent"
[ "$share" -le 26 ] || fail "the slice took $share percent of a processor, of 20"
for job in "$one" "$two"; do call alice job_cancel "{\"job_id\": \"$job\"}" >/dev/null; done
eventually 20 no_box

# Two that read from the disk, each allowed 4 MiB a second.
one=$(hog reads) two=$(hog reads)
moved() { tr ' ' '\n' <"$all/io.stat" | awk -F= '$1 == "rbytes" {sum += $2} END {print int(sum / 1024)}'; }
read_both() { [ "$(tr ' ' '\n' <"$(box "$one")/io.stat" | grep -c rbytes)" -gt 0 ] && [ "$(tr ' ' '\n' <"$(box "$two")/io.stat" | grep -c rbytes)" -gt 0 ]; }
eventually 20 read_both
before=$(moved) begun_ms=$(now)
sleep 6
rate=$((1000 * ($(moved) - before) / ($(now) - begun_ms)))
echo "$rate KiB a second"
[ "$rate" -ge 512 ] || fail "they did not even take their share: $rate KiB a second"
[ "$rate" -le 1280 ] || fail "$rate KiB a second together, of 1024"
for job in "$one" "$two"; do call alice job_cancel "{\"job_id\": \"$job\"}" >/dev/null; done
eventually 20 no_box

# One that is there, and one that takes threads: seven are left for it, of the eight that it may have.
job=$(hog time)
eventually 20 runs "$job"
install -m 755 /test/bin/hog-crowd /usr/local/bin/hog # asked for its version before it scans
(refusal alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [1004], \"wait_s\": 40}" >/tmp/code 2>&1) &
crowded() { [ "$(cat "$all/pids.current")" = 8 ]; }
eventually 20 crowded
equal "tasks of the first" "$(cat "$(box "$job")/pids.current")" 1
equal "tasks of the other" "$(cat "$all"/box-small-*/pids.current)" 7
wait
equal "answer to the other" "$(cat /tmp/code)" scanner_missing
runs "$job" || fail "the first does not run"
equal "launcher" "$(launcher)" "$pid"
