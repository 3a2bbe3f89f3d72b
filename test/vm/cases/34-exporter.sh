# container only: Debian's node_exporter, as its own user, reads the metrics through the link of the package: before
# the first start, after a scan, and when the front has gone idle. Installed after the package and purged before it.
agent alice
accept_lacks
lab_up 22
done_with_it() {
	rm -f /etc/secmcpd/conf.d/idle.yaml
	lab_down
	dpkg --purge prometheus-node-exporter >/dev/null 2>&1 || true
	systemctl restart secmcpd.service
}
trap done_with_it EXIT
dpkg -i /opt/exporter/adduser_*.deb >/dev/null
dpkg -i /opt/exporter/prometheus-node-exporter_*.deb
eventually 10 active prometheus-node-exporter.service
equal "its user" "$(ps -o user= -p "$(property prometheus-node-exporter.service MainPID)")" prometheus
shown() { labtool http http://127.0.0.1:9100/metrics; }
sample() { shown | awk -v name="$1" 'index($0, name) == 1 {print $NF; found = 1} END {exit !found}'; }
up() { shown >/dev/null; }
eventually 10 up
read_well() {
	equal "node_textfile_scrape_error $1" "$(sample node_textfile_scrape_error)" 0
	contains "the files it read $1" "$(shown)" 'node_textfile_mtime_seconds{file="/var/lib/prometheus/node-exporter/secmcpd.prom"}'
}

# As the machine is when it has started: the file is there and empty.
systemctl stop secmcpd.service secmcpd-launcher.service
: >/run/secmcpd-metrics/secmcpd.prom
read_well "before the first start"
refused grep -q '^secmcpd_' <<<"$(shown)"

echo 'front: {idle_exit: 2s}' >/etc/secmcpd/conf.d/idle.yaml
result=$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"wait_s\": 45}") || fail "$result"
counted_there() { [ "$(sample 'secmcpd_jobs_ended_total{reason="exited"')" -ge 1 ]; }
eventually 30 counted_there
read_well "after a scan"

idle() { ! active secmcpd.service; }
eventually 20 idle
read_well "when the front is idle"
counted_there || fail "what was counted is lost"
