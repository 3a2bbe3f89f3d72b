# containers and one machine: an upgrade restarts no socket, ends no scan, keeps what the operator wrote; both rooms make way when nothing runs.
hog_up
job=$(finding)
systemctl start secmcpd.service secmcpd-launcher.service
units=(secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket)
sockets=$(since "${units[@]}")
equal "how many listen" "$(grep -c ^ActiveState=active <<<"$sockets")" 5
front=$(property secmcpd.service MainPID)
launcher=$(launcher)
echo '# by the operator' >>/etc/secmcpd/secmcpd.yaml
dpkg -i "$later" </dev/null
contains "version" "$(dpkg-query -W -f '${Version}' secmcpd)" later
equal "sockets" "$(since "${units[@]}")" "$sockets"
grep -q 'by the operator' /etc/secmcpd/secmcpd.yaml
waits() { [[ $(property secmcpd-launcher.service StatusText) == "an upgrade waits for 1 scan"* ]]; }
eventually 30 waits
runs "$job" || fail "the scan was ended"
equal "the launcher while a scan runs" "$(launcher)" "$launcher"
equal "the front while a scan runs" "$(property secmcpd.service MainPID)" "$front"
equal "status of the job" "$(value status "$(call alice job_status "{\"job_id\": \"$job\", \"wait_s\": 0}")")" running
# It is the last one.
call alice job_cancel "{\"job_id\": \"$job\"}" >/dev/null
another() { [ "$(launcher)" != "$launcher" ] && [ "$(launcher)" != 0 ] && active secmcpd-launcher.service; }
eventually 40 another
kept "$job" cancelled
[ "$(property secmcpd.service MainPID)" != "$front" ] || fail "the front is of the version before"
hold secmcpd.service 1
hold secmcpd-launcher.service 1
equal "sockets after both rooms have made way" "$(since "${units[@]}")" "$sockets"
