# container only: the timer of the examples makes its scan, the first to compare with, then says what has changed, then nothing.
accept_lacks
unit=secmcpd-scan@lab
gone() {
	systemctl stop "$unit.timer" "$unit.service"
	rm -rf /etc/systemd/system/secmcpd-scan* /etc/secmcpd/scans /var/lib/secmcpd-scans
	systemctl daemon-reload
	systemctl stop 'system-secmcpd\x2dscan.slice' 'system-secmcpd\x2dscan\x2dchanged.slice' || true # of all instances
	systemctl reset-failed "$unit.service" || true
	lab_down
}
trap gone EXIT
cp /usr/share/doc/secmcpd/examples/secmcpd-scan* /etc/systemd/system/
id -u scans >/dev/null 2>&1 || useradd --system --groups secmcpd-agents scans
mkdir -p /etc/secmcpd/scans "/etc/systemd/system/$unit.timer.d"
cat >/etc/secmcpd/scans/lab.env <<END
TOOL=nmap_scan
ARGUMENTS='{"targets":["$lab"],"ports":[22,80]}'
END
# As it is, but for when.
printf '[Timer]\nOnCalendar=\nOnActiveSec=100ms\nAccuracySec=1ms\nRandomizedDelaySec=0\nPersistent=no\n' >"/etc/systemd/system/$unit.timer.d/when.conf"
systemctl daemon-reload

# systemd forgets a unit that has ended well; its journal does not.
ends() { journalctl --no-pager -o cat --since "$begun" -u "$unit.service" | grep -cE 'Deactivated successfully|Failed with result' || true; }
# comes STATUS: the timer fires once, and its scan ends with this.
comes() {
	local before
	before=$(ends)
	systemctl restart "$unit.timer"
	another() { [ "$(ends)" -gt "$before" ]; }
	eventually 30 another
	equal "status of the scan" "$(property "$unit.service" ExecMainStatus)" "$1"
}
says() { journalctl --no-pager -o cat --since "$begun" -u secmcpd-scan-changed@lab.service | grep -q "scan lab ended with $1:"; }
found=/var/lib/secmcpd-scans/lab.txt

lab_up 22
trap gone EXIT
comes 0
lab_up 22 80
trap gone EXIT
comes 4
eventually 10 says 4
contains "what has changed" "$(cat "$found")" 80
equal "who may read it" "$(stat -c '%a %U' "$(dirname "$found")")" "750 scans"
comes 0
