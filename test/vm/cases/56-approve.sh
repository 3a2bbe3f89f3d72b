# container only: a member of secmcpd-admin who is not the caller approves a scan, and nobody else can.
agent alice
agent bob
outsider carol
id -u dave >/dev/null 2>&1 || useradd --create-home --groups secmcpd-admin dave
lab_up 22
accept_lacks
cat >/etc/secmcpd/engagements.d/approved.yaml <<-YAML
	name: approved
	callers: {users: [alice]}
	targets: [$lab]
	tools: {nmap_scan: {profiles: ["*"]}}
	approve: [nmap_scan]
YAML
trap 'rm -f /etc/secmcpd/engagements.d/approved.yaml; lab_down' EXIT
sleep 3
arguments="{\"targets\": [\"$lab\"], \"ports\": [22], \"engagement\": \"approved\"}"
answer=$(call alice nmap_scan "$arguments")
equal "what it waits for" "$(value waiting_for "$answer")" approval
job=$(value job_id "$answer")
digest=$(value digest "$(as dave secmcpd approve "$job" --json)")
for user in alice bob carol; do
	refused as "$user" secmcpd approve "$job" --digest "$digest"
done
refused as dave secmcpd approve "$job" --digest "$(tr 0-9a-f 1-9a-f0 <<<"$digest")"
as dave secmcpd approve "$job" --digest "$digest"
equal "status of the job" "$(value status "$(ended "$job")")" completed
equal "who approved" "$(value approval.by_uid "$(ended "$job")")" "$(id -u dave)"
job=$(value job_id "$(call alice nmap_scan "$arguments")")
as dave secmcpd deny "$job" --reason "not now"
answer=$(call alice job_status "{\"job_id\": \"$job\", \"wait_s\": 10}")
contains "the refusal" "$(value error.reason "$answer")" "dave"
