# container only: a reload is of both rooms, and done when systemctl returns; one of a file with a fault fails and
# changes nothing. No process is another one afterwards, and a scan runs on.
hog_up
trap 'rm -f /etc/secmcpd/conf.d/reload.yaml; settings_gone hog' EXIT
job=$(finding)
scanner=$(scanners)
front=$(property secmcpd.service MainPID)
room=$(launcher)
said() { journalctl --no-pager -o cat --since "$begun" -u "$1"; }
echo 'limits: {open_files: 300}' >/etc/secmcpd/conf.d/reload.yaml
systemctl reload secmcpd-launcher.service
contains "log of a good one" "$(said secmcpd-launcher.service)" "is in force"
echo 'limits: {open_files: many}' >/etc/secmcpd/conf.d/reload.yaml
refused systemctl reload secmcpd-launcher.service
refused systemctl reload secmcpd.service
contains "log of a bad one" "$(said secmcpd-launcher.service)" "reload.yaml:1: limits.open_files"
active secmcpd.service
active secmcpd-launcher.service
echo 'scans: {at_once: 7}' >/etc/secmcpd/conf.d/reload.yaml
refused systemctl reload secmcpd-launcher.service
contains "log of one that needs a restart" "$(said secmcpd-launcher.service)" "scans.at_once"
echo 'limits: {open_files: 400}' >/etc/secmcpd/conf.d/reload.yaml
systemctl reload secmcpd.service
systemctl kill --kill-whom=main --signal=HUP secmcpd-launcher.service
sleep 2
equal "front" "$(property secmcpd.service MainPID)" "$front"
equal "launcher" "$(launcher)" "$room"
contains "audit log" "$(cat /var/log/secmcpd/audit.jsonl)" '"event":"reloaded"'
secmcpd audit verify
equal "the scanner" "$(scanners)" "$scanner"
equal "status of the job" "$(value status "$(call alice job_status "{\"job_id\": \"$job\", \"wait_s\": 0}")")" running
call alice job_cancel "{\"job_id\": \"$job\"}" >/dev/null
kept "$job" cancelled
