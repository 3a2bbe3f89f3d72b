# containers and one machine: a front that is killed costs no scan: it is started again and goes on reading.
hog_up
job=$(finding)
scanner=$(scanners)
kill -9 "$(property secmcpd.service MainPID)"
eventually 30 active secmcpd.service
equal "scanner" "$(scanners)" "$scanner"
equal "status of the job" "$(value status "$(call alice job_status "{\"job_id\": \"$job\", \"wait_s\": 0}")")" running
call alice job_cancel "{\"job_id\": \"$job\"}" >/dev/null
eventually 10 no_scanner
kept "$job" cancelled
