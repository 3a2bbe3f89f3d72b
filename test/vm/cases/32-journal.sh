# container only: what an operator looks for is found in the journal by its MESSAGE_ID, with the job in a field, and
# explained by the catalogue. One id goes from the call to the audit log.
agent alice
accept_lacks
lab_up 22
entered() { [ -n "$(entry "$@")" ]; }

result=$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"correlation_id\": \"order-66:a\", \"wait_s\": 45}") || fail "$result"
job=$(value job_id "$result")
for event in scan_launched scan_ended; do
	eventually 5 entered $event "SECMCPD_JOB=$job"
	said=$(entry $event "SECMCPD_JOB=$job")
	equal "SECMCPD_EVENT" "$(value SECMCPD_EVENT "$said")" "$event"
	equal "SECMCPD_UID of $event" "$(value SECMCPD_UID "$said")" "$(id -u alice)"
	equal "SECMCPD_TOOL of $event" "$(value SECMCPD_TOOL "$said")" nmap_scan
	equal "SECMCPD_ENGAGEMENT of $event" "$(value SECMCPD_ENGAGEMENT "$said")" private-lab
	equal "SECMCPD_CORRELATION of $event" "$(value SECMCPD_CORRELATION "$said")" order-66:a
	equal "PRIORITY of $event" "$(value PRIORITY "$said")" 6
	equal "unit of $event" "$(value _SYSTEMD_UNIT "$said")" secmcpd-launcher.service
	equal "transport of $event" "$(value _TRANSPORT "$said")" journal
done
refusal alice nmap_scan '{"targets": ["127.0.0.1"]}'
eventually 5 entered scan_refused SECMCPD_CODE=target_never
entered started
entered engagements_read

explained=$(journalctl --no-pager -x "MESSAGE_ID=$(message_id scan_launched)" "SECMCPD_JOB=$job")
contains "the catalogue" "$explained" "-- Subject: A scan was launched: nmap_scan, job $job"
contains "the catalogue" "$explained" "Uid $(id -u alice) asked for a scan"
contains "the catalogue" "$(journalctl --list-catalog)" "$(message_id audit_tampered) secmcpd: The audit log was tampered with"

shown=$(secmcpd audit show --correlation order-66:a)
for event in asked decided launched "done"; do contains "the audit log" "$shown" " $event job=$job correlation=order-66:a "; done
contains "the chain" "$(secmcpd audit verify)" "chain intact"

# The front speaks to the journal, too: it hears that the launcher is gone.
kill -KILL "$(launcher)"
eventually 10 entered launcher_lost _SYSTEMD_UNIT=secmcpd.service
eventually 10 active secmcpd-launcher.service
