# A front that is asked to stop stops, also while a scan runs; the scan does not, and the next
# front reads on.
hog_up
job=$(hog time)
eventually 20 runs "$job"
begun_ms=$(now)
systemctl restart secmcpd.service
took=$(($(now) - begun_ms))
echo "restarted in $took ms"
[ "$took" -lt 10000 ] || fail "the front did not end when it was asked to: $took ms"
runs "$job" || fail "the scan ended"
equal "status of the job" "$(value status "$(call alice job_status "{\"job_id\": \"$job\", \"wait_s\": 0}")")" running
