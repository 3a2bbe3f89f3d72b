# containers and one machine: started again, it listens before anything runs; the scan is interrupted, keeps what it had
# found and says so; nothing of it is left, and the next scan works.
trap 'rm -f /etc/secmcpd/conf.d/hog.yaml' EXIT
job=$(cat /var/tmp/rebooted-job)
for unit in secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket; do
	active "$unit" || fail "$unit is $(property "$unit" ActiveState)"
done
for unit in secmcpd.service secmcpd-launcher.service; do
	refused active "$unit" # until the first client
done
kept "$job" interrupted
no_scanner
no_box
settings_gone hog
lab_up 22
equal "open ports of the next scan" "$(value summary.open_ports "$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"wait_s\": 45}")")" 1
