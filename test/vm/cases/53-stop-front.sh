# containers and one machine: a front that is asked to stop stops, also while a scan runs; the scan does not, and the
# next front reads on.
hog_up
job=$(finding)
begun_ms=$(now)
systemctl stop secmcpd.service
took=$(($(now) - begun_ms))
echo "stopped in $took ms"
[ "$took" -lt 5000 ] || fail "the front did not end when it was asked to: $took ms"
runs "$job" || fail "the scan ended"
eventually 30 active secmcpd.service # the launcher, which has something to tell, has started it
equal "status of the job" "$(value status "$(call alice job_status "{\"job_id\": \"$job\", \"wait_s\": 0}")")" running
call alice job_cancel "{\"job_id\": \"$job\"}" >/dev/null
kept "$job" cancelled
