# one machine only: says what the kernel does with all cores
# A scanner that crashes leaves no core, and the program that takes cores, which is the machine's and
# runs as root, is not started for it.
hog_up
kept=$(cat /proc/sys/kernel/core_pattern)
trap 'echo "$kept" >/proc/sys/kernel/core_pattern; settings_gone hog' EXIT
echo '|/usr/bin/touch /run/core-taken' >/proc/sys/kernel/core_pattern
taken() { [ -e /run/core-taken ]; }
(bash -c 'ulimit -c 0; kill -SEGV $$') || true
eventually 10 taken # of any other process it is
rm /run/core-taken
job=$(ended "$(hog crash)")
equal "reason" "$(value end.reason "$job")" signalled
sleep 2
refused taken
no_box
