# An agent whose user is in the group scans a host of the lab; one whose user is not cannot connect.
agent alice
outsider mallory
accept_lacks
lab_up 22 80
result=$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22, 80, 81], \"wait_s\": 45}") || fail "$result"
echo "$result"
equal "status" "$(value status "$result")" completed
equal "open ports" "$(value summary.open_ports "$result")" 2
equal "complete" "$(value coverage.complete "$result")" true
equal "network" "$(value network.mode "$result")" translated
if ! systemd-detect-virt --quiet --container; then
	equal "what was not enforced" "$(value not_enforced "$result")" "[]"
	equal "filter" "$(filter)" bpf
fi
refused as mallory secmcpd connect </dev/null 2>/tmp/refusal
contains "refusal" "$(cat /tmp/refusal)" "usermod -aG secmcpd-agents"
no_scanner
no_box
