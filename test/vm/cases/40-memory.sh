# machine only: needs the memory controller
# A scanner that takes all memory is ended by its own limit, the job says so, the launcher lives.
hog_up "limits: {memory_mib: 64}"
before=$(counted memory)
pid=$(launcher)
job=$(ended "$(hog memory)")
equal "reason" "$(value end.reason "$job")" memory
eventually 5 counts memory "$before"
equal "launcher" "$(launcher)" "$pid"
no_scanner
no_box
