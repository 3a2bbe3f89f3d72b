# An upgrade restarts no socket, ends no scan, and leaves what the operator wrote, with the new settings beside.
hog_up
job=$(finding)
systemctl start secmcpd.service
units=(secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket)
sockets=$(since "${units[@]}")
equal "how many listen" "$(grep -c ^ActiveState=active <<<"$sockets")" 5
launcher=$(launcher)
systemctl disable --quiet secmcpd-launcher-admin.socket # what an operator switched off stays so
echo '# by the operator' >>/etc/secmcpd/secmcpd.yaml
rpm --upgrade --nodeps "$later_rpm"
contains "version" "$(rpm --query secmcpd)" later
equal "sockets" "$(since "${units[@]}")" "$sockets"
grep -q 'by the operator' /etc/secmcpd/secmcpd.yaml
grep -q 'of the later version' /etc/secmcpd/secmcpd.yaml.rpmnew
waits() { [[ $(property secmcpd-launcher.service StatusText) == "an upgrade waits for 1 scan"* ]]; }
eventually 30 waits
runs "$job" || fail "the scan was ended"
equal "the launcher while a scan runs" "$(launcher)" "$launcher"
equal "secmcpd-launcher-admin.socket" "$(systemctl is-enabled secmcpd-launcher-admin.socket || true)" disabled
equal "secmcpd-http.socket" "$(systemctl is-enabled secmcpd-http.socket || true)" disabled
call alice job_cancel "{\"job_id\": \"$job\"}" >/dev/null
another() { [ "$(launcher)" != "$launcher" ] && [ "$(launcher)" != 0 ] && active secmcpd-launcher.service; }
eventually 40 another
kept "$job" cancelled
equal "sockets after the launcher has made way" "$(since "${units[@]}")" "$sockets"
