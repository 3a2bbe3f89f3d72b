# one machine only: takes more than a minute, the least that the settings allow
# A scanner that has used up its processor time is ended, and its job says why.
hog_up "limits: {cpu_time: 1m}"
before=$(counted cpu)
pid=$(launcher)
job=$(hog cpu)
ended "$job" >/dev/null # it waits for less than a minute
job=$(ended "$job")
equal "reason" "$(value end.reason "$job")" cpu
eventually 5 counts cpu "$before"
equal "status" "$(value status "$job")" partial
equal "launcher" "$(launcher)" "$pid"
no_scanner
no_box
