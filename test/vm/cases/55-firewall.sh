# containers and one machine: a firewall that is loaded again forgets every rule, ours too: what runs is ended and says why,
# and the next scan works.
hog_up
job=$(finding)
pid=$(launcher)
nft flush ruleset
job=$(ended "$job")
equal "reason" "$(value end.reason "$job")" scope_lost
kept "$(value job_id "$job")" interrupted
lacking=$(value not_enforced "$job" || true)
if [ "$(filter)" = bpf ]; then
	# What the filter passes is swallowed without the table.
	refused grep -q '"scope"' <<<"$lacking"
else
	contains "layers not enforced" "$lacking" '"scope"'
fi
no_scanner
equal "launcher" "$(launcher)" "$pid"
eventually 5 nft list table inet secmcpd
grep -q '"event":"scope_lost"' /var/log/secmcpd/audit.jsonl || fail "the audit log does not say it"
job=$(hog time)
eventually 20 runs "$job"
