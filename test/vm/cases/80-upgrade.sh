# An upgrade restarts what runs, restarts no socket, and keeps what the operator wrote.
systemctl start secmcpd.service secmcpd-launcher.service
sockets=$(property secmcpd.socket ActiveEnterTimestampMonotonic)$(property secmcpd-front.socket ActiveEnterTimestampMonotonic)
front=$(property secmcpd.service MainPID)
launcher=$(launcher)
echo '# by the operator' >>/etc/secmcpd/secmcpd.yaml
dpkg -i "$later" </dev/null
contains "version" "$(dpkg-query -W -f '${Version}' secmcpd)" later
equal "sockets" "$(property secmcpd.socket ActiveEnterTimestampMonotonic)$(property secmcpd-front.socket ActiveEnterTimestampMonotonic)" "$sockets"
[ "$(property secmcpd.service MainPID)" != "$front" ] || fail "the front was not restarted"
[ "$(launcher)" != "$launcher" ] || fail "the launcher was not restarted"
hold secmcpd.service 1
hold secmcpd-launcher.service 1
grep -q 'by the operator' /etc/secmcpd/secmcpd.yaml
