# machine only: needs the pids controller
# nmap needs no second process, so its box gives none: not by system call, not by limit.
hog_up "limits: {processes: 40}"
hog processes >/tmp/job
eventually 20 a_scanner
sleep 2
box=$(boxes)
equal "pids.max" "$(cat "$box/pids.max")" 40
equal "processes and threads" "$(cat "$box/pids.current")" 1
