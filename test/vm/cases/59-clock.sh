# one machine only: sets the clock, which a container has from its host
# The clock jumps a day forward and back while scans run. The time of scans is that of the clock that nobody
# sets; the term of an engagement goes by the one on the wall. Health tells of each jump.
lab_up 22
uptime_s() { cut -d. -f1 /proc/uptime; }
right=$(($(date +%s) - $(uptime_s)))
told() { property secmcpd-launcher.service StatusText | grep -q "the wall clock went $1 by 2[34]h"; } # to the second, jump is not
jump() { date -s "@$(($(date +%s) + $1))"; }
agent alice
cat >/etc/secmcpd/engagements.d/clock-term.yaml <<-TERM
	name: clock-term
	callers: {users: [alice]}
	targets: [$lab]
	tools: {nmap_scan: {profiles: ["*"]}}
	expires: $(date -u -d '+12 hours' +%Y-%m-%dT%H:%M:%SZ)
TERM
hog_up
undo() {
	date -s "@$((right + $(uptime_s)))" >/dev/null
	rm -f /etc/secmcpd/engagements.d/clock-term.yaml
	settings_gone hog
	lab_down
}
trap undo EXIT
runs=$(value job_id "$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [1004], \"engagement\": \"private-lab\", \"wait_s\": 0}")")
term=$(value job_id "$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [1004], \"engagement\": \"clock-term\", \"wait_s\": 0}")")
eventually 30 runs "$runs"
eventually 30 runs "$term"
rooms="$(property secmcpd.service MainPID) $(launcher)"

jump 86400
answer=$(ended "$term") # what has a term is over, and says so
equal "reason of the one whose term is over" "$(value end.reason "$answer")" withdrawn
equal "a call after the term" "$(refusal alice nmap_scan "{\"targets\": [\"$lab\"], \"engagement\": \"clock-term\", \"ports\": [1004]}")" expired
eventually 60 told forward
runs "$runs" || fail "the scan that has time left was ended"
secmcpd audit verify

jump -86400
eventually 60 told back
runs "$runs" || fail "the scan that has time left was ended"
call alice job_cancel "{\"job_id\": \"$runs\"}" >/dev/null
equal "status of the scan" "$(value status "$(ended "$runs")")" cancelled
equal "both rooms" "$(property secmcpd.service MainPID) $(launcher)" "$rooms"
secmcpd audit verify
all=$(call alice job_list '{}')
for job in "$runs" "$term"; do contains "the jobs" "$all" "$job"; done
