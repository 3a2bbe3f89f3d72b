# A scanner that has used up its processor time is ended, and its job says why.
hog_up "limits: {cpu_time: 3s}"
pid=$(launcher)
job=$(ended "$(hog cpu)")
equal "reason" "$(value end.reason "$job")" cpu
equal "status" "$(value status "$job")" partial
equal "launcher" "$(launcher)" "$pid"
no_scanner
no_box
