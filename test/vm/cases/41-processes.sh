# machine only: needs the pids controller
# nmap needs no second process, so its box gives none: not by system call, not by limit.
hog_up "limits: {processes: 40}"
job=$(hog processes)
eventually 20 runs "$job"
sleep 2
box=$(box "$job")
equal "pids.max" "$(cat "$box/pids.max")" 40
equal "processes and threads" "$(cat "$box/pids.current")" 1
