# machine only: needs Landlock and every controller
# A scanner that is an attacker's, under the real units and by the way of every scan: what it tries
# gets the answers of /test/testdata/probes.txt, in both boxes of nmap; what is deadly is a violation.
agent alice
lab_up 22
install -m 755 /test/bin/probe /usr/local/bin/probe
settings hostile <<<'{scanners: {nmap: /usr/local/bin/probe}, breakers: {enabled: false}}'
trap 'settings_gone hostile; lab_down' EXIT
pid=$(launcher)
violations() { grep -c '"event":"violation"' /var/log/secmcpd/audit.jsonl || true; }
before=$(violations)

# try SCAN PORT: the job. Which of them it tries, the port says: 1 all that a process survives, 1000+N the Nth.
try() { call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [$2], \"scan_type\": \"$1\", \"skip_discovery\": true, \"wait_s\": 45}"; }

# wanted PROFILE prints "ANSWER PROBE" for each line of the table.
wanted() {
	awk -F'|' -v profile="$1" '
		/^#/ || /^$/ {next}
		{
			n = split($3, words, " "); answer = words[1]; best = 0
			for (i = 2; i <= n; i++) {
				at = index(words[i], "="); name = substr(words[i], 1, at - 1); rank = 0
				if (name == profile) rank = 1
				if (name == "slot") rank = 2
				if (name == "slot:" profile) rank = 3
				if (rank > best) {best = rank; answer = substr(words[i], at + 1)}
			}
			gsub(/^ +| +$/, "", $2); print answer, $2
		}' /test/testdata/probes.txt
}

for scan in connect syn; do
	profile=nmap-connect
	[ "$scan" = connect ] || profile=nmap-raw
	job=$(value job_id "$(try "$scan" 1)")
	cp "/var/lib/secmcpd/jobs/$job/nmap.xml" /tmp/answers
	# Made executable later: the unit denies it before the file system does (MemoryDenyWriteExecute).
	wanted "$profile" | sed 's/^EACCES execute-later$/EPERM execute-later/' >/tmp/wanted
	# memory is for 40-memory.
	grep -vE '^! |^[A-Z]+ memory$' /tmp/wanted >/tmp/survived
	diff /tmp/survived /tmp/answers || fail "$profile: what was wanted (<) and what was answered (>)"
done
[ "$(wc -l </tmp/survived)" -gt 150 ] || fail "only $(wc -l </tmp/survived) were tried"

# Of the deadly ones, each takes a scan; in turn in either box.
deadly=0
while read -r row; do
	deadly=$((deadly + 1))
	scan=connect
	[ $((deadly % 2)) = 0 ] || scan=syn
	equal "end of line $row of the table" "$(value end.reason "$(try "$scan" $((1000 + row)))")" violation
done < <(grep -n '^! ' /tmp/wanted | cut -d: -f1)
[ "$deadly" -gt 50 ] || fail "only $deadly deadly ones were tried"
equal "violations in the audit log" "$(violations)" "$((before + deadly))"
equal "launcher" "$(launcher)" "$pid"
no_box
