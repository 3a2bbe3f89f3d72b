# one machine only: needs the pids controller
# A scanner that takes more threads than its limit is refused them, and the answer says so. The box
# in which it says its version is the one that has threads at all.
hog_up "limits: {processes: 40}" hog-crowd
pid=$(launcher)
job=$(ended "$(hog time)")
equal "reason" "$(value end.reason "$job")" refused
equal "code" "$(value error.code "$job")" scanner_missing
contains "why" "$(value error.reason "$job")" "its box ended: pids"
equal "launcher" "$(launcher)" "$pid"
no_scanner
no_box
