# Removed, nothing runs and no socket is left; what was written stays until the purge.
touch /var/log/secmcpd/audit-of-the-operator
dpkg --remove secmcpd
for unit in secmcpd-http.socket secmcpd.socket secmcpd-front.socket secmcpd-bell.socket secmcpd-admin.socket secmcpd-launcher-admin.socket secmcpd.service secmcpd-launcher.service; do
	refused active "$unit"
done
refused pgrep -x secmcpd
refused test -e /run/secmcpd
test -e /etc/secmcpd/secmcpd.yaml
test -e /var/log/secmcpd/audit-of-the-operator
dpkg -i "$deb"
active secmcpd.socket
active secmcpd-front.socket
