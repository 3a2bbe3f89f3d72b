# container only: a build of long before is upgraded: its jobs, results, settings and audit log are read on, a scan of it runs on, no
# socket is restarted, and those that it did not have come.
[ -e "$previous" ] || fail "no older build to upgrade from: \`make systest\` builds one and passes it with -previous"
dpkg --purge secmcpd >/dev/null 2>&1
dpkg -i "$previous"
old=$(dpkg-query -W -f '${Version}' secmcpd)
refused test -e /run/secmcpd/admin.sock # it had no operators
agent alice
lab_up 22 80
accept_lacks
settings operator <<-'EOF'
	scans: {at_once: 3, queued: 32, memory_mib: 1024, packets_per_second: 8000}
	limits: {memory_mib: 256, cpu_time: 30m, output_mib: 32}
	slots: {first_uid: 67000, mode: translated}
	jobs: {keep: 500, keep_for: 720h}
	tools: {exclude: [masscan_scan]}
EOF
scan() { value job_id "$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22, 80, $1], \"wait_s\": 45}")"; }
first=$(scan 81)
second=$(scan 82)
call alice job_pin "{\"job_id\": \"$first\", \"name\": \"before\"}" >/dev/null
results() {
	local job result what
	for job in "$first" "$second"; do
		result=$(call alice job_result "{\"job_id\": \"$job\"}")
		for what in status summary.open_ports hosts coverage.complete engagement tool; do value "$what" "$result"; done
	done
	call alice job_list '{}' | grep '"pinned"'
}
had=$(results)
contains "what is pinned" "$had" '"pinned": "before"'
records=$(wc -l </var/log/secmcpd/audit.jsonl)

install -m 755 /test/bin/hog /usr/local/bin/hog
settings hog <<<'scanners: {nmap: /usr/local/bin/hog}'
job=$(hog time)
eventually 20 runs "$job"
sockets() { property secmcpd.socket ActiveEnterTimestampMonotonic; property secmcpd-front.socket ActiveEnterTimestampMonotonic; }
were=$(sockets)
rooms=$(launcher)$(property secmcpd.service MainPID)
said=$(dpkg -i "$deb" 2>&1 </dev/null) || fail "$said"
contains "what the upgrade says while a scan runs" "$said" "when they have ended: systemctl stop secmcpd-launcher.service secmcpd.service && systemctl start secmcpd-bell.socket"
runs "$job" || fail "the scan was ended"
equal "the rooms while a scan runs" "$(launcher)$(property secmcpd.service MainPID)" "$rooms"
equal "status of the job" "$(value status "$(call alice job_status "{\"job_id\": \"$job\", \"wait_s\": 0}")")" running
call alice job_cancel "{\"job_id\": \"$job\"}" >/dev/null
eventually 20 no_scanner
rm /etc/secmcpd/conf.d/hog.yaml
sleep 1
dpkg -i "$deb" </dev/null # what it said is done by itself when nothing runs
equal "sockets" "$(sockets)" "$were"
for unit in secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket; do
	active "$unit" || fail "$unit is $(property "$unit" ActiveState)"
done
now_has() {
	equal "version" "$(secmcpd version | cut -d' ' -f2)" "$(dpkg-query -W -f '${Version}' secmcpd | sed 's/-1$//')"
	secmcpd check
	results >/tmp/results || fail "$(cat /tmp/results)"
	equal "the results" "$(cat /tmp/results)" "$had"
	equal "the job that was cancelled" "$(value status "$(call alice job_status "{\"job_id\": \"$job\", \"wait_s\": 0}")")" cancelled
	secmcpd audit verify
	[ "$(wc -l </var/log/secmcpd/audit.jsonl)" -gt "$records" ] || fail "the audit log did not go on"
	hold secmcpd.service 1
	hold secmcpd-launcher.service 1
	contains "status for operators" "$(secmcpd status)" "launcher"
}
now_has
answer=$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22, 80, 83], \"wait_s\": 45}") || fail "$answer"
third=$(value job_id "$answer")
equal "a scan of now" "$(value status "$answer")" completed
declare -p old first second third job had records >/run/previous
declare -f results now_has >>/run/previous
